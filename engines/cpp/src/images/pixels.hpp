// Pixels in memory: a decoded image that owns them, and a view that reads any layout upright.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace alexnet_deploy {

inline constexpr int side = 256;
inline constexpr std::size_t square_bytes = std::size_t{side} * side * 3;

/// A decoded image, row by row, of one (grey) or three (RGB) bytes per pixel.
struct Bitmap {
    Bitmap(int columns, int rows, int samples)
        : width(columns),
          height(rows),
          num_samples(samples),
          values(static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(samples)) {
    }

    [[nodiscard]] std::uint8_t* row(int y) {
        return values.data() + static_cast<std::size_t>(y) * static_cast<std::size_t>(width) *
                                   static_cast<std::size_t>(num_samples);
    }

    int width;
    int height;
    int num_samples;
    std::vector<std::uint8_t> values;
};

/// A view of pixels in any layout: steps may be negative, so that it can be turned without a copy.
struct PixelView {
    const std::uint8_t* first = nullptr;  ///< The upper left pixel.
    std::ptrdiff_t pixel_step = 3;        ///< Bytes from a pixel to its right neighbour.
    std::ptrdiff_t row_step = 0;          ///< Bytes from a pixel to the one below it.
    int width = 0;
    int height = 0;
    std::array<int, 3> channels{0, 1, 2};  ///< Where red, green and blue stand within a pixel.

    [[nodiscard]] static PixelView of(const Bitmap& bitmap) {
        const std::array<int, 3> channels = bitmap.num_samples == 1 ? std::array{0, 0, 0} : std::array{0, 1, 2};
        return {bitmap.values.data(),
                bitmap.num_samples,
                std::ptrdiff_t{bitmap.width} * bitmap.num_samples,
                bitmap.width,
                bitmap.height,
                channels};
    }

    /// The view turned upright by an EXIF orientation, 1 to 8; other values change nothing.
    [[nodiscard]] PixelView upright(int orientation) const {
        PixelView view = *this;
        const auto mirror = [&view] {
            view.first += view.pixel_step * (view.width - 1);
            view.pixel_step = -view.pixel_step;
        };
        const auto flip = [&view] {
            view.first += view.row_step * (view.height - 1);
            view.row_step = -view.row_step;
        };
        // Mirrored or flipped as stored; 5 to 8 also swap rows and columns.
        if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) {
            mirror();
        }
        if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
            flip();
        }
        if (orientation >= 5 && orientation <= 8) {
            std::swap(view.pixel_step, view.row_step);
            std::swap(view.width, view.height);
        }
        return view;
    }
};

}  // namespace alexnet_deploy
