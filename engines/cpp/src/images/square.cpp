// Pillow's antialiased bilinear filter on 8 bits: two passes, each rounded, horizontal first.
//
// Source: Pillow, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc). This file must be compiled
// without contraction of multiplications and additions: a fused one rounds differently.
#include "images/square.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace alexnet_deploy {
namespace {

constexpr int precision_bits = 32 - 8 - 2;
constexpr std::int32_t half = 1 << (precision_bits - 1);

/// The part of a row or column that becomes 256 values, in parts of pixels.
struct Range {
    double begin;
    double end;
};

/// Weights of the source pixels of each of 256 results.
struct Taps {
    std::array<int, side> first{};
    std::array<int, side> count{};
    std::size_t most = 0;
    std::vector<std::int32_t> weights;  ///< `most` for each result.
};

/// The taps that resize `range` of a line of `length` pixels to 256.
Taps taps_for(Range range, int length) {
    // Pillow keeps its box in float.
    const float begin = static_cast<float>(range.begin);
    const float end = static_cast<float>(range.end);
    const double scale = static_cast<double>(end - begin) / side;
    const double support = std::max(scale, 1.0);
    Taps taps;
    taps.most = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
    taps.weights.resize(taps.most * side);
    std::vector<double> exact(taps.most);
    for (std::size_t out = 0; out < side; ++out) {
        const double centre = static_cast<double>(begin) + (static_cast<double>(out) + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + support + 0.5), length);
        const auto count = static_cast<std::size_t>(std::max(last - first, 0));
        double total = 0.0;
        for (std::size_t index = 0; index < count; ++index) {
            const double distance = (static_cast<double>(index) + first - centre + 0.5) * (1.0 / support);
            exact[index] = std::max(1.0 - std::abs(distance), 0.0);
            total += exact[index];
        }
        for (std::size_t index = 0; index < count; ++index) {
            const double weight = total != 0.0 ? exact[index] / total : exact[index];
            taps.weights[out * taps.most + index] =
                static_cast<std::int32_t>(0.5 + weight * static_cast<double>(1 << precision_bits));
        }
        taps.first[out] = first;
        taps.count[out] = static_cast<int>(count);
    }
    return taps;
}

std::uint8_t rounded(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> precision_bits, 0, 255));
}

/// Write 256 pixels for a line whose pixels lie `step` bytes apart. `Step` fixes the step at compile time; 0 does not.
template <std::ptrdiff_t Step>
void resize_line(const std::uint8_t* line, std::ptrdiff_t step, const std::array<int, 3>& channels, const Taps& taps,
                 std::uint8_t* out, std::ptrdiff_t out_step) {
    const std::ptrdiff_t stride = Step != 0 ? Step : step;
    const auto [red, green, blue] = channels;
    for (std::size_t index = 0; index < side; ++index) {
        const std::int32_t* weights = taps.weights.data() + index * taps.most;
        const std::uint8_t* pixel = line + taps.first[index] * stride;
        std::int32_t sums[3] = {half, half, half};
        for (int tap = 0; tap < taps.count[index]; ++tap, pixel += stride) {
            sums[0] += pixel[red] * weights[tap];
            sums[1] += pixel[green] * weights[tap];
            sums[2] += pixel[blue] * weights[tap];
        }
        for (int channel = 0; channel < 3; ++channel) {
            out[channel] = rounded(sums[channel]);
        }
        out += out_step;
    }
}

void resize_row(const PixelView& view, int y, const Taps& taps, std::uint8_t* out) {
    const std::uint8_t* row = view.first + view.row_step * y;
    switch (view.pixel_step) {
        case 3: return resize_line<3>(row, 3, view.channels, taps, out, 3);
        case 4: return resize_line<4>(row, 4, view.channels, taps, out, 3);
        default: return resize_line<0>(row, view.pixel_step, view.channels, taps, out, 3);
    }
}

/// Write 256 rows of `row_bytes` bytes from the rows that `taps` names; `rows` is the first of them.
void resize_columns(const std::uint8_t* rows, std::size_t row_bytes, const Taps& taps, std::uint8_t* out) {
    std::vector<std::int32_t> sums(row_bytes);
    for (std::size_t index = 0; index < side; ++index, out += row_bytes) {
        std::fill(sums.begin(), sums.end(), half);
        const std::int32_t* weights = taps.weights.data() + index * taps.most;
        for (int tap = 0; tap < taps.count[index]; ++tap) {
            const std::int32_t weight = weights[tap];
            const std::uint8_t* row = rows + static_cast<std::size_t>(taps.first[index] + tap) * row_bytes;
            for (std::size_t place = 0; place < row_bytes; ++place) {
                sums[place] += row[place] * weight;
            }
        }
        std::transform(sums.begin(), sums.end(), out, rounded);
    }
}

struct Rows {
    int begin;
    int end;
};

/// The rows that the filter may read to resize `range` to 256.
Rows reach(Range range, int length) {
    const double scale = (range.end - range.begin) / side;
    const int beyond = static_cast<int>(std::ceil(std::max(scale, 1.0) - scale / 2)) + 1;
    return {std::max(0, static_cast<int>(std::floor(range.begin)) - beyond),
            std::min(length, static_cast<int>(std::ceil(range.end)) + beyond)};
}

/// The middle `length` pixels of an extent of the file, in the view's pixels.
Range middle(const PixelView& view, const Extent& extent, int length) {
    const int first = (extent.length - length) / 2;
    return {view.place(extent, first), view.place(extent, first + length)};
}

}  // namespace

void to_square(const PixelView& view, alexnet_deploy_resize resize, std::uint8_t* square) {
    const bool is_warp = resize == ALEXNET_DEPLOY_WARP;
    const int shorter = std::min(view.across.length, view.down.length);
    const Range columns = middle(view, view.across, is_warp ? view.across.length : shorter);
    const Range rows = middle(view, view.down, is_warp ? view.down.length : shorter);
    // Vertically first where the other order would need 256 pixels for each of very many rows.
    if (view.height > std::max<std::int64_t>(std::int64_t{100} * view.width, side)) {
        const Taps down = taps_for(rows, view.height);
        Bitmap narrow(view.width, side, 3);
        for (int x = 0; x < view.width; ++x) {
            resize_line<0>(view.first + view.pixel_step * x, view.row_step, view.channels, down,
                           narrow.values.data() + std::ptrdiff_t{x} * 3, std::ptrdiff_t{view.width} * 3);
        }
        const Taps across = taps_for(columns, view.width);
        const PixelView whole = PixelView::of(narrow);
        for (int y = 0; y < side; ++y) {
            resize_row(whole, y, across, square + std::ptrdiff_t{y} * side * 3);
        }
        return;
    }
    const Rows used = reach(rows, view.height);
    const Taps across = taps_for(columns, view.width);
    Bitmap resized(side, used.end - used.begin, 3);
    for (int y = used.begin; y < used.end; ++y) {
        resize_row(view, y, across, resized.row(y - used.begin));
    }
    const Taps down = taps_for({rows.begin - used.begin, rows.end - used.begin}, used.end - used.begin);
    resize_columns(resized.values.data(), std::size_t{side} * 3, down, square);
}

}  // namespace alexnet_deploy
