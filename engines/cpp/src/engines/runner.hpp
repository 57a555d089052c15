// One backend's part of an engine: no checks, no splitting; it owns its buffers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "alexnet_deploy.h"
#include "core/bytes.hpp"

namespace alexnet_deploy {

inline constexpr const char* images_name = "images";
inline constexpr const char* probabilities_name = "probabilities";

/// A graph to load: its verified bytes and their description.
struct GraphSource {
    std::string name;  ///< In error messages.
    Bytes data;        ///< The ONNX file.
    std::string precision;
    std::size_t num_classes;
    std::size_t num_views;
    bool needs_vnni;
};

/// How it is to be run.
struct Request {
    std::string backend = "auto";
    std::string device = "auto";
    int num_threads = 0;  ///< 0 leaves the number to the backend.
    alexnet_deploy_tuning tuning = ALEXNET_DEPLOY_LATENCY;
};

class Runner {
public:
    Runner() = default;
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;
    virtual ~Runner() = default;

    /// Write num_images times num_classes probabilities for squares within the batch limit. Throws Failure
    /// (backend_error, wrong_answer_error).
    virtual void run(const std::uint8_t* squares, std::size_t num_images, float* probabilities) = 0;
};

/// What a backend opened.
struct Opened {
    std::vector<std::unique_ptr<Runner>> runners;  ///< One per stream.
    std::string version;                           ///< Of the backend's library.
    std::string device;
    std::string arithmetic;
    std::size_t max_batch;
    std::size_t batch_size;  ///< Smallest batch that reaches full throughput.
    bool is_proof_pending = false;  ///< Whether the golden images must be run before anything else.
};

/// Largest batch of a CPU engine, in images: 160 views keep the activations of a full-size network under a gigabyte.
inline std::size_t max_batch_for(std::size_t num_views) { return std::max<std::size_t>(1, 160 / num_views); }

/// Smallest batch that reaches full throughput on a CPU: 40 views amortise reading the fully connected weights.
inline std::size_t batch_size_for(std::size_t num_views) { return std::max<std::size_t>(1, 40 / num_views); }

/// A library's message without line breaks.
inline std::string in_one_line(const std::string& message) {
    std::string line;
    bool is_gap = false;
    for (const char letter : message) {
        if (letter == ' ' || (letter >= '\t' && letter <= '\r')) {
            is_gap = !line.empty();
            continue;
        }
        line += is_gap ? " " : "";
        line += letter;
        is_gap = false;
    }
    return line;
}

}  // namespace alexnet_deploy
