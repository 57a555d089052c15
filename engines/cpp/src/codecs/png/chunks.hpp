// The chunks of a PNG, read as Pillow reads them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/bytes.hpp"
#include "images/profile.hpp"

namespace alexnet_deploy {

/// How samples are laid out; the names are Pillow's modes.
enum class PngMode { none, bilevel, grey, grey16, colour, palette, grey_alpha, colour_alpha };

/// A rectangle of the image that the first frame of an animation covers.
struct PngFrame {
    std::uint32_t left = 0;
    std::uint32_t top = 0;
    std::uint32_t width = 0;
    std::uint32_t height = 0;
};

struct PngHeader {
    std::uint32_t width = 0;
    std::uint32_t height = 0;
    int depth = 0;  ///< Bits per sample.
    PngMode mode = PngMode::none;
    bool is_interlaced = false;
    bool has_pixels = false;
    std::optional<PngFrame> frame;
    std::optional<Bytes> palette;
    std::optional<Bytes> transparency;
    std::optional<std::vector<std::uint8_t>> icc_profile;
    std::optional<ColourCodes> codes;
    std::optional<std::vector<std::uint8_t>> exif;
    std::optional<std::vector<std::uint8_t>> raw_exif;  ///< Of ImageMagick's text; counts where there is no `exif`.
    std::optional<std::vector<std::uint8_t>> xmp;
};

/// Refuse a PNG with too many chunks. Throws Failure (too_large).
void check_png_chunks(Bytes data);

/// Reads the chunks of a PNG in order: those before the pixels, the pixels, and those after them.
class PngReader {
public:
    /// Reads up to the pixels. Throws Failure (truncated).
    explicit PngReader(Bytes data);

    [[nodiscard]] const PngHeader& header() const { return header_; }

    /// The next piece of compressed pixels, at most 64 KiB; empty at their end. Throws Failure (truncated).
    Bytes next_piece();

    /// Read the chunks after the pixels: they may hold EXIF data. Throws Failure (truncated).
    void read_rest();

private:
    struct Chunk {
        std::string_view kind;
        std::size_t num_bytes;
    };
    enum class Handled { read, pixels };

    Chunk next_chunk();
    Bytes content(std::size_t num_bytes);
    Handled handle(const Chunk& chunk);
    void check_digest(std::string_view kind, Bytes content);
    void read_header(Bytes content);
    void read_transparency(Bytes content);
    void read_profile(Bytes content);
    void read_text(std::string_view kind, Bytes content);
    void read_frame_control(Bytes content);
    void keep_text(std::string_view key, Bytes value, bool is_decoded);

    Bytes data_;
    std::size_t place_ = 8;
    std::size_t left_ = 0;  ///< Bytes left in the current chunk of pixels.
    bool is_animation_ = false;
    bool has_next_frame_ = false;
    std::uint32_t num_frames_ = 1;
    std::optional<std::uint32_t> sequence_;
    std::size_t text_bytes_ = 0;
    PngHeader header_;
};

}  // namespace alexnet_deploy
