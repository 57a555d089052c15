// Convert wide-gamut colours to sRGB on the resized image: the twin of alexnet_deploy/core/images/profile.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// A conversion of pixels to sRGB, in integers.
struct ToSrgb {
    std::array<std::array<std::int64_t, 256>, 3> curves;  ///< Linear light, 0..65535, for each channel's value.
    std::array<std::array<std::int64_t, 3>, 3> matrix;    ///< Linear light to linear sRGB, in units of 1/16384.

    /// Convert pixels in place, three bytes each.
    void apply(std::uint8_t* pixels, std::size_t num_pixels) const;
};

/// Colour as a container states it: code points of primaries and transfer in ITU-T H.273.
struct ColourCodes {
    int primaries;
    int transfer;
};

/// The conversion of an ICC profile; none if it counts as sRGB, or is not one of a matrix and three curves.
std::optional<ToSrgb> conversion_of_profile(Bytes profile);

/// The conversion of stated code points; none if they count as sRGB. Throws Failure for HDR.
std::optional<ToSrgb> conversion_of_codes(ColourCodes codes);

}  // namespace alexnet_deploy
