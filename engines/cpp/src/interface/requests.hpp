// What a caller passed through the C interface, checked.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <string>

#include "alexnet_deploy.h"
#include "codecs/limits.hpp"
#include "core/bytes.hpp"
#include "core/failure.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {

/// The object behind a pointer. Throws Failure (usage_error) for a null pointer.
template <typename Object>
Object& required(Object* object, const char* name) {
    if (object == nullptr) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, std::string(name) + " is a null pointer");
    }
    return *object;
}

inline Bytes bytes_of(const void* data, std::size_t num_bytes) {
    if (num_bytes != 0) {
        required(data == nullptr ? nullptr : "", "data");
    }
    return {static_cast<const std::uint8_t*>(data), num_bytes};
}

inline alexnet_deploy_resize checked(alexnet_deploy_resize resize) {
    if (resize != ALEXNET_DEPLOY_SHORTER_SIDE && resize != ALEXNET_DEPLOY_WARP) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, std::to_string(static_cast<int>(resize)) + " is not a resize policy");
    }
    return resize;
}

inline alexnet_deploy_image_policy checked(alexnet_deploy_image_policy policy) {
    checked(policy.resize);
    if (policy.decoding != ALEXNET_DEPLOY_EXACT && policy.decoding != ALEXNET_DEPLOY_SCALED) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, std::to_string(static_cast<int>(policy.decoding)) + " is not a decoding");
    }
    return policy;
}

inline Limits limits_of(const alexnet_deploy_limits* given) {
    Limits limits;
    if (given != nullptr) {
        for (const std::int64_t value : {given->max_pixels, given->max_bytes, given->max_scans}) {
            if (value < 0) {
                fail(ALEXNET_DEPLOY_USAGE_ERROR, "limits must be 1 or more, or 0 for the default, got " +
                                                     std::to_string(value));
            }
        }
        const auto or_default = [](std::int64_t value, std::int64_t usual) { return value != 0 ? value : usual; };
        // Sides and places of pixels are numbers of 31 bits.
        limits.max_pixels = std::min<std::int64_t>(or_default(given->max_pixels, limits.max_pixels), INT_MAX / 4);
        limits.max_bytes = or_default(given->max_bytes, limits.max_bytes);
        limits.max_scans = or_default(given->max_scans, limits.max_scans);
    }
    return limits;
}

inline PixelView view_of(const alexnet_deploy_frame& frame) {
    struct Layout {
        int num_bytes;
        std::array<int, 3> channels;
    };
    constexpr std::array<Layout, 5> layouts{
        {{3, {0, 1, 2}}, {3, {2, 1, 0}}, {4, {0, 1, 2}}, {4, {2, 1, 0}}, {1, {0, 0, 0}}}};
    const auto format = static_cast<std::size_t>(frame.format);
    if (format >= layouts.size()) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, std::to_string(format) + " is not a pixel format");
    }
    const auto [num_bytes, channels] = layouts[format];
    required(frame.pixels, "frame.pixels");
    if (frame.width < 1 || frame.height < 1) {
        fail(ALEXNET_DEPLOY_EMPTY, "an image of " + std::to_string(frame.width) + " x " +
                                       std::to_string(frame.height) + " has no pixels");
    }
    const std::ptrdiff_t row_bytes = std::ptrdiff_t{frame.width} * num_bytes;
    if (std::abs(frame.stride_bytes) < row_bytes) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, "a row of " + std::to_string(row_bytes) + " bytes does not fit in a stride of " +
                                             std::to_string(frame.stride_bytes));
    }
    return {frame.pixels, num_bytes, frame.stride_bytes, frame.width,
            frame.height, channels, {frame.width}, {frame.height}};
}

}  // namespace alexnet_deploy
