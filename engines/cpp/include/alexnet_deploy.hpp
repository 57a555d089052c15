// alexnet-deploy in C++17: a header-only face over alexnet_deploy.h.
//
//     alexnet_deploy::Engine engine("my-fp16.bundle");
//     for (const auto& [label, probability] : engine.top(engine.classify_file("photo.jpg"), 5)) {
//         std::cout << probability << ' ' << label << '\n';
//     }
//
// Errors are exceptions, one class for each kind:
//
//     Error
//     |-- UsageError            the call contradicts itself or names something that does not exist
//     |-- ImageError            one image that cannot be read; status() is its code
//     |-- BundleError           a bundle that cannot be read
//     |   `-- IntegrityError    a bundle whose files differ from the published ones
//     |-- BackendError          an engine that is not available here, or for this bundle
//     |   `-- WrongAnswerError  an engine whose output is not valid probabilities
//     `-- ParityError           an engine that disagrees with the trained network
#ifndef ALEXNET_DEPLOY_HPP
#define ALEXNET_DEPLOY_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "alexnet_deploy.h"

namespace alexnet_deploy {

/// A failure; the message is one sentence for the user.
class Error : public std::runtime_error {
public:
    Error(alexnet_deploy_status status, const std::string& message) : std::runtime_error(message), status_(status) {}

    [[nodiscard]] alexnet_deploy_status status() const noexcept { return status_; }

    /// Name of the status, as "truncated".
    [[nodiscard]] const char* code() const noexcept { return alexnet_deploy_status_name(status_); }

private:
    alexnet_deploy_status status_;
};

struct UsageError : Error {
    using Error::Error;
};
struct ImageError : Error {
    using Error::Error;
};
struct BundleError : Error {
    using Error::Error;
};
struct IntegrityError : BundleError {
    using BundleError::BundleError;
};
struct BackendError : Error {
    using Error::Error;
};
struct WrongAnswerError : BackendError {
    using BackendError::BackendError;
};
struct ParityError : Error {
    using Error::Error;
};

/// A view of values that someone else owns; like std::span, which C++17 lacks.
template <typename Value>
class View {
public:
    constexpr View(Value* data, std::size_t size) : data_(data), size_(size) {}

    /// Any container whose values lie one after the other.
    template <typename Container, typename = decltype(std::declval<Container&>().data())>
    constexpr View(Container&& container) : data_(container.data()), size_(container.size()) {}

    [[nodiscard]] constexpr Value* data() const { return data_; }
    [[nodiscard]] constexpr std::size_t size() const { return size_; }
    [[nodiscard]] constexpr Value* begin() const { return data_; }
    [[nodiscard]] constexpr Value* end() const { return data_ + size_; }
    [[nodiscard]] constexpr Value& operator[](std::size_t index) const { return data_[index]; }

private:
    Value* data_;
    std::size_t size_;
};

using Frame = alexnet_deploy_frame;
using Limits = alexnet_deploy_limits;

enum class Resize { shorter_side = ALEXNET_DEPLOY_SHORTER_SIDE, warp = ALEXNET_DEPLOY_WARP };
enum class Decoding { exact = ALEXNET_DEPLOY_EXACT, scaled = ALEXNET_DEPLOY_SCALED };
enum class Tuning { latency = ALEXNET_DEPLOY_LATENCY, throughput = ALEXNET_DEPLOY_THROUGHPUT };

/// Pixels of the network's input: 256 rows of 256 pixels of 3 bytes, RGB, upright.
using Square = std::vector<std::uint8_t>;

/// How an image file becomes a square.
struct ImagePolicy {
    // NOLINTNEXTLINE(google-explicit-constructor): a resize policy alone decodes all pixels.
    ImagePolicy(Resize resize_, Decoding decoding_ = Decoding::exact) : resize(resize_), decoding(decoding_) {}

    Resize resize;
    Decoding decoding;
};

/// How a bundle is opened.
struct Options {
    std::string backend = "auto";
    std::string device = "auto";
    int num_threads = 0;  ///< CPU threads; 0 leaves the number to the backend.
    Tuning tuning = Tuning::latency;
    Limits limits{0, 0, 0};  ///< Of image files; 0 means the default.
};

struct Guess {
    std::string_view label;  ///< Lives as long as the engine.
    float probability;
};

namespace detail {

inline void check(alexnet_deploy_status status) {
    if (status == ALEXNET_DEPLOY_OK) {
        return;
    }
    const std::string message = alexnet_deploy_last_error();
    switch (status) {
        case ALEXNET_DEPLOY_USAGE_ERROR: throw UsageError(status, message);
        case ALEXNET_DEPLOY_BUNDLE_ERROR: throw BundleError(status, message);
        case ALEXNET_DEPLOY_INTEGRITY_ERROR: throw IntegrityError(status, message);
        case ALEXNET_DEPLOY_BACKEND_ERROR: throw BackendError(status, message);
        case ALEXNET_DEPLOY_WRONG_ANSWER_ERROR: throw WrongAnswerError(status, message);
        case ALEXNET_DEPLOY_PARITY_ERROR: throw ParityError(status, message);
        case ALEXNET_DEPLOY_INTERNAL_ERROR: throw Error(status, message);
        default: throw ImageError(status, message);
    }
}

inline alexnet_deploy_image_policy in_c(ImagePolicy policy) {
    return {static_cast<alexnet_deploy_resize>(policy.resize), static_cast<alexnet_deploy_decoding>(policy.decoding)};
}

struct Close {
    void operator()(alexnet_deploy_engine* engine) const noexcept { alexnet_deploy_close(engine); }
};

}  // namespace detail

/// Resize a frame. Throws UsageError, ImageError.
inline Square to_square(const Frame& frame, Resize resize) {
    Square square(ALEXNET_DEPLOY_SQUARE_BYTES);
    detail::check(alexnet_deploy_to_square(&frame, static_cast<alexnet_deploy_resize>(resize), square.data()));
    return square;
}

/// Decode the bytes of an image file. Throws ImageError.
inline Square decode(View<const std::uint8_t> data, ImagePolicy policy, const Limits& limits = {0, 0, 0}) {
    Square square(ALEXNET_DEPLOY_SQUARE_BYTES);
    detail::check(alexnet_deploy_decode(data.data(), data.size(), detail::in_c(policy), &limits, square.data()));
    return square;
}

/// Decode an image file. Throws ImageError.
inline Square decode_file(const std::string& path, ImagePolicy policy, const Limits& limits = {0, 0, 0}) {
    Square square(ALEXNET_DEPLOY_SQUARE_BYTES);
    detail::check(alexnet_deploy_decode_file(path.c_str(), detail::in_c(policy), &limits, square.data()));
    return square;
}

/// Read every file of a bundle and compare it with the manifest. Throws BundleError.
inline void verify(const std::string& bundle) { detail::check(alexnet_deploy_verify(bundle.c_str())); }

/// An open bundle. Any number of threads may use it at a time.
class Engine {
public:
    /// Throws UsageError, BundleError, BackendError, ParityError.
    explicit Engine(const std::string& bundle, const Options& options = {}) {
        const alexnet_deploy_options given{sizeof(alexnet_deploy_options),
                                           options.backend.c_str(),
                                           options.device.c_str(),
                                           options.num_threads,
                                           static_cast<alexnet_deploy_tuning>(options.tuning),
                                           options.limits};
        alexnet_deploy_engine* opened = nullptr;
        detail::check(alexnet_deploy_open(bundle.c_str(), &given, &opened));
        engine_.reset(opened);
    }

    [[nodiscard]] std::size_t num_classes() const { return alexnet_deploy_num_classes(engine_.get()); }

    /// Name of a class; throws std::out_of_range.
    [[nodiscard]] std::string_view label(std::size_t index) const {
        const char* name = alexnet_deploy_class_name(engine_.get(), index);
        if (name == nullptr) {
            throw std::out_of_range("there is no class " + std::to_string(index));
        }
        return name;
    }

    /// What it runs on; its texts live as long as the engine.
    [[nodiscard]] alexnet_deploy_info info() const {
        alexnet_deploy_info found{};
        detail::check(alexnet_deploy_describe(engine_.get(), &found));
        return found;
    }

    /// Run the golden images and files of the bundle. Throws ParityError if the results differ.
    alexnet_deploy_proof prove() {
        alexnet_deploy_proof found{};
        detail::check(alexnet_deploy_prove(engine_.get(), &found));
        return found;
    }

    /// Probabilities, in the order of the classes, for the bytes of an image file. Throws ImageError, BackendError.
    std::vector<float> classify(View<const std::uint8_t> data) {
        std::vector<float> probabilities(num_classes());
        detail::check(alexnet_deploy_classify(engine_.get(), data.data(), data.size(), probabilities.data(),
                                              probabilities.size()));
        return probabilities;
    }

    std::vector<float> classify_file(const std::string& path) {
        std::vector<float> probabilities(num_classes());
        detail::check(alexnet_deploy_classify_file(engine_.get(), path.c_str(), probabilities.data(),
                                                   probabilities.size()));
        return probabilities;
    }

    std::vector<float> classify_frame(const Frame& frame) {
        std::vector<float> probabilities(num_classes());
        detail::check(alexnet_deploy_classify_frame(engine_.get(), &frame, probabilities.data(),
                                                    probabilities.size()));
        return probabilities;
    }

    /// Rows of probabilities for squares that lie one after the other.
    std::vector<float> classify_squares(View<const std::uint8_t> squares) {
        const std::size_t num_images = squares.size() / ALEXNET_DEPLOY_SQUARE_BYTES;
        if (num_images * ALEXNET_DEPLOY_SQUARE_BYTES != squares.size()) {
            throw UsageError(ALEXNET_DEPLOY_USAGE_ERROR,
                             std::to_string(squares.size()) + " bytes are not a number of squares of " +
                                 std::to_string(ALEXNET_DEPLOY_SQUARE_BYTES));
        }
        std::vector<float> probabilities(num_images * num_classes());
        detail::check(alexnet_deploy_classify_squares(engine_.get(), squares.data(), num_images, probabilities.data(),
                                                      probabilities.size()));
        return probabilities;
    }

    /// The most probable classes, the best first; of equal ones, the first.
    [[nodiscard]] std::vector<Guess> top(View<const float> probabilities, std::size_t count) const {
        std::vector<std::size_t> order(std::min(probabilities.size(), num_classes()));
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](std::size_t left, std::size_t right) {
            return probabilities[left] > probabilities[right];
        });
        std::vector<Guess> best;
        for (const std::size_t index : order) {
            if (best.size() == count) {
                break;
            }
            best.push_back({label(index), probabilities[index]});
        }
        return best;
    }

private:
    std::unique_ptr<alexnet_deploy_engine, detail::Close> engine_;
};

}  // namespace alexnet_deploy

#endif
