// Source: Pillow, PngImagePlugin.py: which damage it refuses, and in which chunk.
#include "codecs/png/chunks.hpp"

#include <zlib.h>

#include <array>

#include "codecs/limits.hpp"
#include "codecs/png/inflate.hpp"

namespace alexnet_deploy {
namespace {

using namespace std::string_view_literals;

constexpr std::int64_t max_parts = 1 << 16;
constexpr std::int64_t max_note_bytes = std::int64_t{1} << 26;
constexpr std::int64_t max_compressed_notes = 256;
constexpr std::size_t max_text_bytes = std::size_t{1} << 20;  // Of one compressed text.
constexpr std::size_t max_all_text_bytes = 64 * max_text_bytes;
constexpr std::size_t piece_bytes = 65'536;

[[noreturn]] void fail_png(const std::string& why) { fail_damaged("PNG", why); }

bool is_pixels(std::string_view kind) { return kind == "IDAT"sv || kind == "fdAT"sv; }

std::int64_t count_of(std::string_view text, std::string_view what) {
    std::int64_t found = 0;
    for (std::size_t place = text.find(what); place != text.npos; place = text.find(what, place + what.size())) {
        ++found;
    }
    return found;
}

/// Bytes that a chunk needs, where Pillow checks.
std::size_t least_bytes(std::string_view kind) {
    constexpr std::array<std::pair<std::string_view, std::size_t>, 7> least{{
        {"IHDR"sv, 13}, {"gAMA"sv, 4}, {"cHRM"sv, 32}, {"sRGB"sv, 1}, {"pHYs"sv, 9}, {"acTL"sv, 8}, {"fcTL"sv, 26},
    }};
    for (const auto& [name, count] : least) {
        if (kind == name) {
            return count;
        }
    }
    return 0;
}

struct Layout {
    int depth;
    int colour_type;
    PngMode mode;
};

constexpr Layout layouts[] = {
    {1, 0, PngMode::bilevel},     {2, 0, PngMode::grey},          {4, 0, PngMode::grey},
    {8, 0, PngMode::grey},        {16, 0, PngMode::grey16},       {8, 2, PngMode::colour},
    {16, 2, PngMode::colour},     {1, 3, PngMode::palette},       {2, 3, PngMode::palette},
    {4, 3, PngMode::palette},     {8, 3, PngMode::palette},       {8, 4, PngMode::grey_alpha},
    {16, 4, PngMode::grey_alpha}, {8, 6, PngMode::colour_alpha}, {16, 6, PngMode::colour_alpha},
};

/// Splits at the first zero byte: what is before it, and what is after it.
std::optional<std::pair<Bytes, Bytes>> split(Bytes content) {
    const std::size_t end = content.text().find('\0');
    if (end == std::string_view::npos) {
        return std::nullopt;
    }
    return std::pair{content.part(0, end), content.part(end + 1)};
}

std::optional<int> digit(std::uint8_t letter) {
    if (letter >= '0' && letter <= '9') {
        return letter - '0';
    }
    letter |= 0x20;
    return letter >= 'a' && letter <= 'f' ? std::optional(letter - 'a' + 10) : std::nullopt;
}

/// Stands for EXIF data that cannot be read: the orientation is 1, whatever else the file says.
std::vector<std::uint8_t> unreadable() { return {'?'}; }

/// The bytes in ImageMagick's "Raw profile type exif": hexadecimal digits from the fourth line on.
std::optional<std::vector<std::uint8_t>> raw_profile(Bytes text) {
    std::size_t place = 0;
    for (int line = 0; line < 3; ++line) {
        place = text.text().find('\n', place);
        if (place == std::string_view::npos) {
            return std::vector<std::uint8_t>{};
        }
        ++place;
    }
    std::vector<std::uint8_t> found;
    while (place < text.size()) {
        if (" \t\n\r\f\v"sv.find(static_cast<char>(text[place])) != std::string_view::npos) {
            ++place;
            continue;
        }
        const auto high = digit(text[place++]);
        while (place < text.size() && text[place] == '\n') {
            ++place;
        }
        const auto low = place < text.size() ? digit(text[place++]) : std::nullopt;
        if (!high || !low) {
            return std::nullopt;
        }
        found.push_back(static_cast<std::uint8_t>(*high << 4 | *low));
    }
    return found;
}

}  // namespace

void check_png_chunks(Bytes data) {
    std::int64_t number = 0, num_note_bytes = 0;
    for (std::size_t place = 8; place + 8 <= data.size();) {
        const std::size_t num_bytes = *data.u32(place);
        const std::string_view kind = data.part(place + 4, 4).text();
        check_count(++number, max_parts, "chunks");
        // The last chunk may state more bytes than the file has.
        num_note_bytes += is_pixels(kind) ? 0 : static_cast<std::int64_t>(std::min(num_bytes, data.size()));
        check_count(num_note_bytes, max_note_bytes, "bytes besides its pixels");
        if (kind == "IEND"sv) {
            break;
        }
        place += 12 + num_bytes;
    }
    const std::string_view text = data.text();
    check_count(count_of(text, "iCCP") + count_of(text, "iTXt") + count_of(text, "zTXt"), max_compressed_notes,
                "compressed chunks");
}

PngReader::PngReader(Bytes data) : data_(data) {
    for (;;) {
        const Chunk chunk = next_chunk();
        if (chunk.kind == "IEND"sv) {
            return;
        }
        const std::size_t start = place_;
        if (handle(chunk) == Handled::pixels) {
            left_ = chunk.num_bytes - (place_ - start);
            header_.has_pixels = true;
            // Without a frame of its own, the image comes before the first frame.
            has_next_frame_ = num_frames_ > 1 || (is_animation_ && !header_.frame);
            return;
        }
        check_digest(chunk.kind, data_.part(start, chunk.num_bytes));
    }
}

PngReader::Chunk PngReader::next_chunk() {
    const auto num_bytes = data_.u32(place_);
    const std::string_view kind = data_.part(place_ + 4, 4).text();
    const auto is_letter = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    };
    if (!num_bytes || kind.size() < 4 || !std::all_of(kind.begin(), kind.end(), is_letter)) {
        fail_png("broken PNG file (chunk)");
    }
    place_ += 8;
    return {kind, *num_bytes};
}

Bytes PngReader::content(std::size_t num_bytes) {
    const Bytes found = data_.part(place_, num_bytes);
    if (found.size() < num_bytes) {
        fail_png("a chunk is cut off");
    }
    place_ += num_bytes;
    return found;
}

void PngReader::check_digest(std::string_view kind, Bytes content) {
    const auto stated = data_.u32(place_);
    uLong digest = crc32(0, reinterpret_cast<const Bytef*>(kind.data()), static_cast<uInt>(kind.size()));
    digest = crc32(digest, content.empty() ? reinterpret_cast<const Bytef*>("") : content.data(),
                   static_cast<uInt>(content.size()));
    if (!stated || *stated != digest) {
        fail_png("broken PNG file (bad header checksum in " + std::string(kind) + ")");
    }
    place_ += 4;
}

PngReader::Handled PngReader::handle(const Chunk& chunk) {
    const std::string_view kind = chunk.kind;
    if (kind == "fdAT"sv) {
        const auto number = chunk.num_bytes < 4 ? std::nullopt : data_.u32(place_);
        if (!number || !sequence_ || *sequence_ != *number - 1 || header_.mode == PngMode::none) {
            fail_png("APNG contains frame sequence errors");
        }
        place_ += 4;
        sequence_ = number;
    }
    // Without a mode Pillow reads over the pixels; the file has no decoder in the end.
    if (is_pixels(kind) && header_.mode != PngMode::none) {
        return Handled::pixels;
    }
    const Bytes found = content(chunk.num_bytes);
    if (found.size() < least_bytes(kind)) {
        fail_png("Truncated " + std::string(kind) + " chunk");
    }
    if (kind == "IHDR"sv) {
        read_header(found);
    } else if (kind == "PLTE"sv && header_.mode == PngMode::palette && !header_.has_pixels) {
        header_.palette = found;
    } else if (kind == "tRNS"sv) {
        read_transparency(found);
    } else if (kind == "iCCP"sv) {
        read_profile(found);
    } else if (kind == "cICP"sv && !header_.codes && !header_.has_pixels) {
        header_.codes = found.size() >= 2 ? ColourCodes{found[0], found[1]} : ColourCodes{0, 0};
    } else if (kind == "eXIf"sv) {
        header_.exif.emplace(found.begin(), found.end());
    } else if (kind == "tEXt"sv || kind == "zTXt"sv || kind == "iTXt"sv) {
        read_text(kind, found);
    } else if (kind == "acTL"sv) {
        const std::uint32_t count = *found.u32(0);
        const bool is_valid = !is_animation_ && count != 0 && count <= 0x80000000;
        num_frames_ = is_valid ? count : 1;
        is_animation_ = is_valid;
    } else if (kind == "fcTL"sv) {
        read_frame_control(found);
    }
    return Handled::read;
}

void PngReader::read_header(Bytes content) {
    header_.width = *content.u32(0);
    header_.height = *content.u32(4);
    for (const Layout& layout : layouts) {
        if (layout.depth == content[8] && layout.colour_type == content[9]) {
            header_.depth = layout.depth;
            header_.mode = layout.mode;
        }
    }
    header_.is_interlaced = header_.is_interlaced || content[12] != 0;
    if (content[11] != 0) {
        fail_png("unknown filter category");
    }
}

void PngReader::read_transparency(Bytes content) {
    const PngMode mode = header_.mode;
    const std::size_t least = mode == PngMode::colour ? 6 : mode == PngMode::palette ? 0 : 2;
    if (mode == PngMode::none || mode == PngMode::grey_alpha || mode == PngMode::colour_alpha) {
        return;
    }
    if (content.size() < least) {
        fail_png("Truncated tRNS chunk");
    }
    header_.transparency = content;
}

void PngReader::read_profile(Bytes content) {
    // Without a zero byte Pillow looks at the first byte.
    const std::size_t end = content.text().find('\0');
    const std::size_t method = end == std::string_view::npos ? 0 : end + 1;
    if (method >= content.size() || content[method] != 0) {
        fail_png("unknown compression method in iCCP chunk");
    }
    Inflated found = inflate_metadata(content.part(method + 1), max_text_bytes);
    if (found.outcome == Inflated::too_long) {
        fail_png("its colour profile is too large");
    }
    header_.icc_profile.reset();
    if (found.outcome == Inflated::done) {
        header_.icc_profile = std::move(found.content);
    }
}

void PngReader::read_text(std::string_view kind, Bytes content) {
    const auto parts = split(content);
    if (!parts) {
        return;
    }
    const auto [key, rest] = *parts;
    Bytes value = rest;
    bool is_compressed = kind == "zTXt"sv;
    if (is_compressed) {
        if (!rest.empty() && rest[0] != 0) {
            fail_png("unknown compression method in zTXt chunk");
        }
        value = rest.part(1);
    } else if (kind == "iTXt"sv) {
        if (rest.size() < 2) {
            return;
        }
        const auto after_language = split(rest.part(2));
        const auto after_keyword = after_language ? split(after_language->second) : std::nullopt;
        if (!after_keyword || (rest[0] != 0 && rest[1] != 0)) {
            return;
        }
        is_compressed = rest[0] != 0;
        value = after_keyword->second;
    }
    Inflated found{Inflated::done, {}};
    if (is_compressed) {
        found = inflate_metadata(value, max_text_bytes);
        if (found.outcome == Inflated::too_long) {
            fail_png("a compressed text is too large");
        }
        if (found.outcome == Inflated::damaged && kind == "iTXt"sv) {
            return;
        }
        value = found.content;
    }
    keep_text(key.text(), value, kind != "tEXt"sv);
}

void PngReader::keep_text(std::string_view key, Bytes value, bool is_decoded) {
    if (key.empty()) {
        return;
    }
    text_bytes_ += value.size();
    if (text_bytes_ > max_all_text_bytes) {
        fail_png("too much memory used in text chunks");
    }
    if (key == "XML:com.adobe.xmp"sv) {
        header_.xmp.emplace(value.begin(), value.end());
    } else if (key == "exif"sv) {
        // Pillow decodes the other kinds of text, and then cannot read them as EXIF data.
        header_.exif = is_decoded ? unreadable() : std::vector<std::uint8_t>(value.begin(), value.end());
    } else if (key == "Raw profile type exif"sv) {
        header_.raw_exif = raw_profile(value).value_or(unreadable());
    }
}

void PngReader::read_frame_control(Bytes content) {
    const std::uint32_t number = *content.u32(0);
    if (sequence_ ? *sequence_ != number - 1 : number != 0) {
        fail_png("APNG contains frame sequence errors");
    }
    sequence_ = number;
    const PngFrame frame{*content.u32(12), *content.u32(16), *content.u32(4), *content.u32(8)};
    if (std::uint64_t{frame.left} + frame.width > header_.width ||
        std::uint64_t{frame.top} + frame.height > header_.height) {
        fail_png("APNG contains invalid frames");
    }
    if (!header_.has_pixels) {
        header_.frame = frame;
    }
}

Bytes PngReader::next_piece() {
    while (left_ == 0) {
        place_ += 4;  // The checksum: Pillow does not check that of pixels.
        const Chunk chunk = next_chunk();
        if (!is_pixels(chunk.kind) && chunk.kind != "DDAT"sv) {
            return {};
        }
        const std::size_t start = place_;
        if (chunk.kind == "fdAT"sv) {
            handle(chunk);
        }
        left_ = chunk.num_bytes - (place_ - start);
    }
    const std::size_t wanted = std::min(left_, piece_bytes);
    const Bytes piece = data_.part(place_, wanted);
    place_ += wanted;
    left_ -= wanted;
    return piece;
}

void PngReader::read_rest() {
    place_ += left_;
    left_ = 0;
    const auto is_end = [](const std::optional<Chunk>& chunk) { return !chunk || chunk->kind == "IEND"sv; };
    for (;;) {
        place_ += 4;
        std::optional<Chunk> chunk;
        try {
            chunk = next_chunk();
        } catch (const Failure&) {
            return;  // What is not a chunk ends the file.
        }
        if (is_end(chunk) || (chunk->kind == "fcTL"sv && has_next_frame_)) {
            return;
        }
        const std::size_t start = place_;
        if (handle(*chunk) == Handled::pixels) {
            content(chunk->num_bytes - (place_ - start));
        }
    }
}

}  // namespace alexnet_deploy
