// The rows of a PNG: decompressed, unfiltered and, if interlaced, at their places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "codecs/png/chunks.hpp"

namespace alexnet_deploy {

/// Samples of one row, as stored, and where they belong: pixel `index` at column first_column + index * column_step.
struct PngRow {
    const std::uint8_t* samples;
    int y;
    int first_column;
    int column_step;
    int num_pixels;
};

/// Size and layout of the coded pixels.
struct PngGrid {
    int width;
    int height;
    int bits_per_pixel;
    bool is_interlaced;
};

/// Read all rows. Rows after a stream that ends properly but early are left out, as Pillow does. Throws Failure
/// (truncated).
void read_png_rows(PngReader& reader, const PngGrid& grid, const std::function<void(const PngRow&)>& take);

}  // namespace alexnet_deploy
