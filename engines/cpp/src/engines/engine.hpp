// An open bundle: images in, probabilities out, for any number of images, from any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "codecs/limits.hpp"
#include "engines/runner.hpp"

namespace alexnet_deploy {

class Engine {
public:
    /// Open a bundle. Backend `auto` uses the first built-in one that runs on the device and computes the graph right; an
    /// explicit backend or device is used or refused, never replaced. Throws Failure.
    Engine(Bundle bundle, const Request& request, const Limits& limits);

    [[nodiscard]] const Bundle& bundle() const { return bundle_; }
    [[nodiscard]] const std::vector<std::string>& labels() const { return labels_; }
    [[nodiscard]] const Limits& limits() const { return limits_; }
    [[nodiscard]] const std::string& backend() const { return backend_; }
    [[nodiscard]] const std::string& version() const { return version_; }
    [[nodiscard]] const std::string& device() const { return device_; }
    [[nodiscard]] const std::string& arithmetic() const { return arithmetic_; }
    [[nodiscard]] std::size_t num_streams() const { return runners_.size(); }
    [[nodiscard]] std::size_t batch_size() const { return batch_size_; }

    /// Whether the machine that built the plan could not run it: the golden images must be run first.
    [[nodiscard]] bool is_proof_pending() const { return is_proof_pending_; }

    /// Write the probabilities of squares that lie one after the other. A batch above the engine's limit is split. If all
    /// streams are busy, the call waits. Throws Failure (backend_error, wrong_answer_error).
    void run(const std::uint8_t* squares, std::size_t num_images, float* probabilities);

private:
    class Taken;

    void refuse_wrong_answer(const float* row, std::size_t image, std::size_t num_images) const;

    Bundle bundle_;
    std::vector<std::string> labels_;
    Limits limits_;
    std::string backend_, version_, device_, arithmetic_;
    std::size_t max_batch_ = 1, batch_size_ = 1;
    bool is_proof_pending_ = false;
    std::vector<std::unique_ptr<Runner>> runners_;
    std::vector<Runner*> idle_;
    std::mutex mutex_;
    std::condition_variable returned_;
};

}  // namespace alexnet_deploy
