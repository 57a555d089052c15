#include "engines/engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/failure.hpp"
#include "engines/registry.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {
namespace {

// Softmax and average are float32 in every graph: rows deviated from a sum of 1 by at most 1.2e-7.
constexpr double sum_bound = 1e-3;

std::string short_number(double number) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.6g", number);
    return text.data();
}

}  // namespace

/// A runner that no other thread has, given back at the end.
class Engine::Taken {
public:
    explicit Taken(Engine& engine) : engine_(engine) {
        std::unique_lock lock(engine.mutex_);
        engine.returned_.wait(lock, [&engine] { return !engine.idle_.empty(); });
        runner_ = engine.idle_.back();
        engine.idle_.pop_back();
    }
    ~Taken() {
        {
            const std::lock_guard lock(engine_.mutex_);
            engine_.idle_.push_back(runner_);
        }
        engine_.returned_.notify_one();
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

    Runner* operator->() const { return runner_; }

private:
    Engine& engine_;
    Runner* runner_;
};

Engine::Engine(Bundle bundle, const Request& request, const Limits& limits)
    : bundle_(std::move(bundle)), labels_(bundle_.read_labels()), limits_(limits) {
    Opened opened = open_backend(bundle_, request, backend_);
    version_ = std::move(opened.version);
    device_ = std::move(opened.device);
    arithmetic_ = std::move(opened.arithmetic);
    max_batch_ = opened.max_batch;
    batch_size_ = opened.batch_size;
    is_proof_pending_ = opened.is_proof_pending;
    runners_ = std::move(opened.runners);
    for (const auto& runner : runners_) {
        idle_.push_back(runner.get());
    }
}

void Engine::run(const std::uint8_t* squares, std::size_t num_images, float* probabilities) {
    const Taken runner(*this);
    const std::size_t num_classes = labels_.size();
    for (std::size_t start = 0; start < num_images; start += max_batch_) {
        const std::size_t count = std::min(max_batch_, num_images - start);
        float* answer = probabilities + start * num_classes;
        runner->run(squares + start * square_bytes, count, answer);
        for (std::size_t image = 0; image < count; ++image) {
            refuse_wrong_answer(answer + image * num_classes, start + image, num_images);
        }
    }
}

void Engine::refuse_wrong_answer(const float* row, std::size_t image, std::size_t num_images) const {
    double sum = 0.0;
    float least = 0.0F;
    bool is_finite = true;
    for (std::size_t index = 0; index < labels_.size(); ++index) {
        sum += static_cast<double>(row[index]);
        least = std::min(least, row[index]);
        is_finite = is_finite && std::isfinite(row[index]);
    }
    // Written so that NaN fails too.
    if (is_finite && std::abs(sum - 1.0) <= sum_bound && least >= 0.0F) {
        return;
    }
    const std::string found = !is_finite      ? "probabilities are NaN or infinite"
                              : least < 0.0F ? "a probability is " + short_number(static_cast<double>(least))
                                              : "probabilities sum to " + short_number(sum) + ", expected 1";
    fail(ALEXNET_DEPLOY_WRONG_ANSWER_ERROR, backend_ + " " + version_ + ": wrong answer from " +
                                                bundle_.path().string() + " for images[" + std::to_string(image) +
                                                "] of " + std::to_string(num_images) + ": " + found);
}

}  // namespace alexnet_deploy
