// Limits on files and on decoding work: the twin of DecodeLimits and of core/codecs/limits.py.
#pragma once

#include <cstdint>
#include <string>

#include "core/failure.hpp"
#include "core/words.hpp"

namespace alexnet_deploy {

struct Limits {
    std::int64_t max_pixels = std::int64_t{1} << 28;
    std::int64_t max_bytes = std::int64_t{256} << 20;
    std::int64_t max_scans = 100;
};

/// Throws Failure (too_large) if `found` is over the limit.
inline void check_count(std::int64_t found, std::int64_t largest, const std::string& what) {
    if (found > largest) {
        fail(ALEXNET_DEPLOY_TOO_LARGE, with_commas(found) + " " + what + ", the limit is " + with_commas(largest));
    }
}

/// Throws Failure (too_large) for a file of more bytes.
inline void refuse_long(std::uint64_t num_bytes, const Limits& limits) {
    if (num_bytes > static_cast<std::uint64_t>(limits.max_bytes)) {
        fail(ALEXNET_DEPLOY_TOO_LARGE,
             counted(num_bytes, "byte") + ", the limit is " + with_commas(limits.max_bytes));
    }
}

/// Throws Failure (too_large) for an image of more pixels.
inline void refuse_large(std::int64_t width, std::int64_t height, const Limits& limits) {
    if (height != 0 && width > limits.max_pixels / height) {
        const double pixels = static_cast<double>(width) * static_cast<double>(height);
        const std::string count =
            pixels < 9e18 ? with_commas(width * height) : "more than " + with_commas(INT64_MAX);
        fail(ALEXNET_DEPLOY_TOO_LARGE, std::to_string(width) + " x " + std::to_string(height) + " is " + count +
                                           " pixels, the limit is " + with_commas(limits.max_pixels) +
                                           "; raise it with max_pixels of alexnet_deploy_limits");
    }
}

/// Throws Failure (truncated).
[[noreturn]] inline void fail_damaged(const char* format, const std::string& why) {
    fail(ALEXNET_DEPLOY_TRUNCATED, std::string(format) + ": ends early or is damaged: " + why);
}

}  // namespace alexnet_deploy
