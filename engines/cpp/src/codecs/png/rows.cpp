// Source: PNG Third Edition, 8.1 (Adam7) and 9 (filters); Pillow, src/libImaging/ZipDecode.c, for damaged streams.
#include "codecs/png/rows.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "codecs/limits.hpp"
#include "codecs/png/inflate.hpp"

namespace alexnet_deploy {
namespace {

struct Pass {
    int first_column, column_step, first_row, row_step;
};

constexpr std::array<Pass, 7> adam7{
    {{0, 8, 0, 8}, {4, 8, 0, 8}, {0, 4, 4, 8}, {2, 4, 0, 4}, {0, 2, 2, 4}, {1, 2, 0, 2}, {0, 1, 1, 2}}};
constexpr Pass all_pixels{0, 1, 0, 1};

std::uint8_t paeth(int left, int above, int corner) {
    const int to_left = std::abs(above - corner), to_above = std::abs(left - corner);
    const int to_corner = std::abs(left + above - 2 * corner);
    if (to_left <= to_above && to_left <= to_corner) {
        return static_cast<std::uint8_t>(left);
    }
    return static_cast<std::uint8_t>(to_above <= to_corner ? above : corner);
}

/// Undo the filter of a row, whose first byte names it; `above` is the unfiltered row before it.
void unfilter(std::vector<std::uint8_t>& row, const std::vector<std::uint8_t>& above, std::size_t num_bytes,
              std::size_t pixel_bytes) {
    const auto left = [&](std::size_t place) { return place > pixel_bytes ? row[place - pixel_bytes] : 0; };
    const auto corner = [&](std::size_t place) { return place > pixel_bytes ? above[place - pixel_bytes] : 0; };
    const auto add = [&](auto predicted) {
        for (std::size_t place = 1; place <= num_bytes; ++place) {
            row[place] = static_cast<std::uint8_t>(row[place] + predicted(place));
        }
    };
    switch (row[0]) {
        case 0: return;
        case 1: return add(left);
        case 2: return add([&](std::size_t place) { return above[place]; });
        case 3: return add([&](std::size_t place) { return (left(place) + above[place]) / 2; });
        case 4: return add([&](std::size_t place) { return paeth(left(place), above[place], corner(place)); });
        default: fail_damaged("PNG", "a row has an unknown filter");
    }
}

/// Walks over the rows in the order of the file.
class Rows {
public:
    explicit Rows(const PngGrid& grid) : grid_(grid), y_(pass().first_row) {
        // The first pass has the first pixel, whatever the size.
    }

    [[nodiscard]] bool is_done() const { return pass_ == adam7.size() || (!grid_.is_interlaced && y_ >= grid_.height); }
    [[nodiscard]] int y() const { return y_; }
    [[nodiscard]] const Pass& pass() const { return grid_.is_interlaced ? adam7[pass_] : all_pixels; }
    [[nodiscard]] int num_pixels() const {
        return (grid_.width - pass().first_column + pass().column_step - 1) / pass().column_step;
    }
    [[nodiscard]] std::size_t num_bytes() const {
        return (static_cast<std::size_t>(num_pixels()) * static_cast<std::size_t>(grid_.bits_per_pixel) + 7) / 8;
    }

    /// Go to the next row; returns whether it starts a pass, whose filters see a black row above.
    bool advance() {
        y_ += pass().row_step;
        bool starts_pass = false;
        while (grid_.is_interlaced && (y_ >= grid_.height || num_pixels() <= 0)) {
            starts_pass = true;
            if (++pass_ == adam7.size()) {
                break;
            }
            y_ = pass().first_row;
        }
        return starts_pass;
    }

private:
    PngGrid grid_;
    std::size_t pass_ = 0;
    int y_;
};

}  // namespace

void read_png_rows(PngReader& reader, const PngGrid& grid, const std::function<void(const PngRow&)>& take) {
    Rows rows(grid);
    const auto row_bits = static_cast<std::size_t>(grid.width) * static_cast<std::size_t>(grid.bits_per_pixel);
    const std::size_t pixel_bytes = (static_cast<std::size_t>(grid.bits_per_pixel) + 7) / 8;
    std::vector<std::uint8_t> row((row_bits + 7) / 8 + 1), above(row.size());
    std::size_t filled = 0;
    InflateStream stream;
    for (;;) {
        const Bytes piece = reader.next_piece();
        if (piece.empty()) {
            fail_damaged("PNG", "image file is truncated");
        }
        stream.feed(piece);
        while (!stream.is_hungry()) {
            const std::size_t needed = rows.num_bytes() + 1;
            std::size_t written = 0;
            const int code = stream.read(row.data() + filled, needed - filled, written);
            if (code < 0 && code != Z_BUF_ERROR) {
                fail_damaged("PNG", "broken data stream");
            }
            filled += written;
            if (filled < needed) {
                break;
            }
            filled = 0;
            unfilter(row, above, needed - 1, pixel_bytes);
            take({row.data() + 1, rows.y(), rows.pass().first_column, rows.pass().column_step, rows.num_pixels()});
            if (rows.advance()) {
                std::fill(row.begin(), row.end(), std::uint8_t{0});
            }
            if (rows.is_done() || code == Z_STREAM_END) {
                return;
            }
            std::swap(row, above);
        }
    }
}

}  // namespace alexnet_deploy
