#include "codecs/png/decoder.hpp"

#include <algorithm>
#include <array>

#include "codecs/exif.hpp"
#include "codecs/png/chunks.hpp"
#include "codecs/png/rows.hpp"

namespace alexnet_deploy {
namespace {

int samples_of(PngMode mode) {
    switch (mode) {
        case PngMode::colour: return 3;
        case PngMode::colour_alpha: return 4;
        case PngMode::grey_alpha: return 2;
        default: return 1;
    }
}

bool is_grey(PngMode mode) {
    return mode == PngMode::bilevel || mode == PngMode::grey || mode == PngMode::grey16 || mode == PngMode::grey_alpha;
}

/// A value of 0..255 with this opacity on white. Source: Pillow, src/libImaging/AlphaComposite.c.
std::uint8_t over_white(std::uint32_t value, std::uint32_t alpha) {
    const std::uint32_t sum = value * (alpha << 7) + 255 * ((255 - alpha) << 7) + (0x80 << 7);
    return static_cast<std::uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

/// Converts samples, as stored, to grey or RGB on white.
class Painter {
public:
    Painter(const PngHeader& layout, const PngHeader& complete) : mode_(layout.mode), depth_(layout.depth) {
        if (mode_ == PngMode::palette) {
            read_palette(layout, complete);
        } else if (complete.transparency && samples_of(mode_) % 2 == 1) {
            read_key(*complete.transparency);
        }
    }

    /// Write pixel `index` of a row of samples.
    void paint(const std::uint8_t* samples, int index, std::uint8_t* out) const {
        switch (mode_) {
            case PngMode::bilevel:
            case PngMode::grey: {
                const std::uint32_t value = packed(samples, index);
                out[0] = is_key({value, value, value}) ? std::uint8_t{255}
                                                       : static_cast<std::uint8_t>(value * 255 / largest());
                return;
            }
            case PngMode::grey16: {
                const std::uint32_t value = samples[2 * index] * 256U + samples[2 * index + 1];
                out[0] = is_key({value, value, value}) ? std::uint8_t{255}
                                                       : static_cast<std::uint8_t>((value * 255 + 32767) / 65535);
                return;
            }
            case PngMode::palette: {
                const auto& entry = palette_[packed(samples, index)];
                std::copy(entry.begin(), entry.end(), out);
                return;
            }
            case PngMode::grey_alpha:
                out[0] = over_white(sample(samples, index, 0), sample(samples, index, 1));
                return;
            default: paint_colour(samples, index, out);
        }
    }

private:
    [[nodiscard]] std::uint32_t largest() const { return (1U << depth_) - 1; }

    /// A sample of up to 8 bits, with others in its byte.
    [[nodiscard]] std::uint32_t packed(const std::uint8_t* samples, int index) const {
        const int bit = index * depth_;
        return static_cast<std::uint32_t>(samples[bit / 8] >> (8 - depth_ - bit % 8)) & largest();
    }

    /// A sample of whole bytes, as 8 bits: Pillow keeps the higher byte of 16 bits.
    [[nodiscard]] std::uint8_t sample(const std::uint8_t* samples, int index, int channel) const {
        return samples[(index * samples_of(mode_) + channel) * (depth_ / 8)];
    }

    void paint_colour(const std::uint8_t* samples, int index, std::uint8_t* out) const {
        std::array<std::uint32_t, 3> colour{};
        for (int channel = 0; channel < 3; ++channel) {
            colour[static_cast<std::size_t>(channel)] = sample(samples, index, channel);
        }
        const std::uint32_t alpha =
            mode_ == PngMode::colour_alpha ? sample(samples, index, 3) : is_key(colour) ? 0U : 255U;
        std::transform(colour.begin(), colour.end(), out,
                       [alpha](std::uint32_t value) { return over_white(value, alpha); });
    }

    [[nodiscard]] bool is_key(const std::array<std::uint32_t, 3>& colour) const { return has_key_ && colour == key_; }

    void read_key(Bytes transparency) {
        has_key_ = true;
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const std::uint32_t value = *transparency.u16(mode_ == PngMode::colour ? 2 * channel : 0);
            if (mode_ == PngMode::bilevel) {
                key_[channel] = value != 0;
            } else if (mode_ == PngMode::colour && depth_ == 16) {
                key_[channel] = value >> 8;
            } else {
                key_[channel] = value & (depth_ == 16 ? 0xffffU : depth_ == 8 ? 0xffU : largest());
            }
        }
    }

    void read_palette(const PngHeader& layout, const PngHeader& complete) {
        if (!layout.palette) {
            fail(ALEXNET_DEPLOY_TRUNCATED, "its palette is missing");
        }
        const Bytes colours = *layout.palette;
        const std::size_t count = colours.size() / 3;
        if (count > palette_.size()) {
            fail_damaged("PNG", "invalid palette size");
        }
        // Colours beyond the palette are black.
        for (std::size_t index = 0; index < count; ++index) {
            std::copy_n(colours.data() + 3 * index, 3, palette_[index].begin());
        }
        if (!complete.transparency) {
            return;
        }
        const Bytes alphas = *complete.transparency;
        const std::optional<std::size_t> only = only_clear(alphas);
        if ((only ? *only : alphas.size()) > palette_.size() - (only ? 1 : 0)) {
            fail_damaged("PNG", "palette index out of range");
        }
        for (std::size_t index = 0; index < palette_.size(); ++index) {
            const std::uint32_t alpha = only                     ? (index == *only ? 0U : 255U)
                                        : index < alphas.size() ? std::uint32_t{alphas[index]}
                                                                 : 255U;
            for (std::uint8_t& value : palette_[index]) {
                value = over_white(value, alpha);
            }
        }
    }

    /// The one clear entry among opaque ones. A line feed at the end does not count, by Pillow's pattern.
    static std::optional<std::size_t> only_clear(Bytes alphas) {
        const std::size_t clear = alphas.text().find_first_not_of('\xff');
        if (clear == std::string_view::npos || alphas[clear] != 0) {
            return std::nullopt;
        }
        std::string_view rest = alphas.part(clear + 1).text();
        if (!rest.empty() && rest.back() == '\n') {
            rest.remove_suffix(1);
        }
        return rest.find_first_not_of('\xff') == std::string_view::npos ? std::optional(clear) : std::nullopt;
    }

    PngMode mode_;
    int depth_;
    bool has_key_ = false;
    std::array<std::uint32_t, 3> key_{};
    std::array<std::array<std::uint8_t, 3>, 256> palette_{};
};

/// Fill an image with what samples of 0 look like: the pixels that the file does not code.
void fill_uncoded(Bitmap& pixels, const Painter& painter) {
    constexpr std::array<std::uint8_t, 8> zeros{};
    std::array<std::uint8_t, 3> colour{};
    painter.paint(zeros.data(), 0, colour.data());
    for (std::size_t place = 0; place < pixels.values.size(); ++place) {
        pixels.values[place] = colour[place % static_cast<std::size_t>(pixels.num_samples)];
    }
}

/// The coded pixels, and where the first one lies in the image.
struct Coded {
    PngGrid grid;
    int left;
    int top;
};

Coded coded_pixels(const PngHeader& header) {
    const PngFrame frame = header.frame.value_or(PngFrame{0, 0, header.width, header.height});
    // A header after the frame may have made the image smaller.
    if (frame.width == 0 || frame.height == 0 || std::uint64_t{frame.left} + frame.width > header.width ||
        std::uint64_t{frame.top} + frame.height > header.height) {
        fail_damaged("PNG", "tile cannot extend outside image");
    }
    return {{static_cast<int>(frame.width), static_cast<int>(frame.height), header.depth * samples_of(header.mode),
             header.is_interlaced},
            static_cast<int>(frame.left),
            static_cast<int>(frame.top)};
}

/// The header with what the chunks after the pixels add to it. Throws Failure (truncated).
PngHeader complete_header(const PngReader& reader, const PngGrid& grid) {
    PngReader rest = reader;
    try {
        rest.read_rest();
    } catch (const Failure&) {
        // Pillow does not look for the end of a piece in which the last pixel lies; where that is, decoding tells.
        rest = reader;
        read_png_rows(rest, grid, [](const PngRow&) {});
        rest.read_rest();
    }
    return rest.header();
}

}  // namespace

StoredImage decode_png(Bytes data, const Limits& limits) {
    check_png_chunks(data);
    PngReader reader(data);
    const PngHeader layout = reader.header();
    if (layout.mode == PngMode::none || layout.width == 0 || layout.height == 0) {
        fail_damaged("PNG", "not identified by this driver");
    }
    refuse_large(layout.width, layout.height, limits);
    if (!layout.has_pixels) {
        fail_damaged("PNG", "cannot load this image");
    }
    const Coded coded = coded_pixels(layout);
    // The chunks after the pixels first: they may hold the transparency.
    const PngHeader complete = complete_header(reader, coded.grid);
    const Painter painter(layout, complete);
    StoredImage image{
        Bitmap(static_cast<int>(layout.width), static_cast<int>(layout.height), is_grey(layout.mode) ? 1 : 3)};
    fill_uncoded(image.pixels, painter);
    read_png_rows(reader, coded.grid, [&](const PngRow& row) {
        std::uint8_t* out = image.pixels.row(coded.top + row.y);
        for (int index = 0; index < row.num_pixels; ++index) {
            const int x = coded.left + row.first_column + index * row.column_step;
            painter.paint(row.samples, index, out + std::ptrdiff_t{x} * image.pixels.num_samples);
        }
    });
    if (!is_grey(layout.mode) || (layout.mode == PngMode::grey_alpha && layout.depth == 16)) {
        image.conversion = complete.codes          ? conversion_of_codes(*complete.codes)
                           : complete.icc_profile ? conversion_of_profile(*complete.icc_profile)
                                                  : std::nullopt;
    }
    const auto& exif = complete.exif ? complete.exif : complete.raw_exif;
    image.orientation = orientation_of(exif ? std::optional<Bytes>(*exif) : std::nullopt,
                                       complete.xmp ? std::optional<Bytes>(*complete.xmp) : std::nullopt);
    return image;
}

}  // namespace alexnet_deploy
