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

/// A file of `width` x `height` pixels that was decoded at 1 / `scale`.
struct Reduction {
    int width;
    int height;
    int scale;
};

/// Columns or rows of a file, in the pixels of a view that may be at a smaller scale.
struct Extent {
    int length = 0;      ///< Pixels of the file.
    double begin = 0.0;  ///< Where the first one begins.
};

/// A view of pixels in any layout: steps may be negative, so that it can be turned without a copy.
struct PixelView {
    const std::uint8_t* first = nullptr;  ///< The upper left pixel.
    std::ptrdiff_t pixel_step = 3;        ///< Bytes from a pixel to its right neighbour.
    std::ptrdiff_t row_step = 0;          ///< Bytes from a pixel to the one below it.
    int width = 0;
    int height = 0;
    std::array<int, 3> channels{0, 1, 2};  ///< Where red, green and blue stand within a pixel.
    Extent across{};
    Extent down{};
    int scale = 1;  ///< Pixels of the file to one of the view, in each direction.

    [[nodiscard]] static PixelView of(const Bitmap& bitmap) {
        const std::array<int, 3> channels = bitmap.num_samples == 1 ? std::array{0, 0, 0} : std::array{0, 1, 2};
        return {bitmap.values.data(),
                bitmap.num_samples,
                std::ptrdiff_t{bitmap.width} * bitmap.num_samples,
                bitmap.width,
                bitmap.height,
                channels,
                {bitmap.width},
                {bitmap.height}};
    }

    /// The view of pixels that were decoded at a smaller scale.
    [[nodiscard]] PixelView reduced(const Reduction& by) const {
        PixelView view = *this;
        view.across = {by.width};
        view.down = {by.height};
        view.scale = by.scale;
        return view;
    }

    /// Where a pixel of the file begins, in the view's pixels.
    [[nodiscard]] double place(const Extent& extent, int pixel) const {
        return extent.begin + static_cast<double>(pixel) / scale;
    }

    /// The view turned upright by an EXIF orientation, 1 to 8; other values change nothing.
    [[nodiscard]] PixelView upright(int orientation) const {
        PixelView view = *this;
        const auto mirror = [&view] {
            view.first += view.pixel_step * (view.width - 1);
            view.pixel_step = -view.pixel_step;
            view.across.begin = view.width - view.place(view.across, view.across.length);
        };
        const auto flip = [&view] {
            view.first += view.row_step * (view.height - 1);
            view.row_step = -view.row_step;
            view.down.begin = view.height - view.place(view.down, view.down.length);
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
            std::swap(view.across, view.down);
        }
        return view;
    }
};

}  // namespace alexnet_deploy
