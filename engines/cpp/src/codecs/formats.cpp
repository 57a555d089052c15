#include "codecs/formats.hpp"

#include <array>
#include <string>

#include "core/failure.hpp"

namespace alexnet_deploy {
namespace {

constexpr std::size_t prefix_bytes = 2048;  // Longer than every signature.

[[noreturn]] void fail_unread(const std::string& name) {
    fail(ALEXNET_DEPLOY_UNSUPPORTED_FORMAT, name + " is not supported: supported formats are JPEG, PNG");
}

/// Part of a signature: at a place, these bytes in order, or one byte that is among these.
struct Part {
    enum Kind { unused, is, among, not_among } kind = unused;
    std::size_t place = 0;
    std::string_view bytes{};

    [[nodiscard]] bool matches(Bytes data) const {
        switch (kind) {
            case is: return data.has(place, bytes);
            case among: return place < data.size() && bytes.find(static_cast<char>(data[place])) != bytes.npos;
            case not_among: return place < data.size() && bytes.find(static_cast<char>(data[place])) == bytes.npos;
            default: return true;
        }
    }
};

struct Signature {
    const char* name;
    std::array<Part, 6> parts{};

    [[nodiscard]] bool matches(Bytes data) const {
        for (const Part& part : parts) {
            if (!part.matches(data)) {
                return false;
            }
        }
        return true;
    }
};

using namespace std::string_view_literals;

constexpr Part is(std::size_t place, std::string_view bytes) { return {Part::is, place, bytes}; }
constexpr Part among(std::size_t place, std::string_view bytes) { return {Part::among, place, bytes}; }
constexpr Part not_among(std::size_t place, std::string_view bytes) { return {Part::not_among, place, bytes}; }

// Valid files of other formats, tested first: some start like one of the formats below.
constexpr Signature unread[] = {
    {"Canon CR2 raw", {is(0, "II*\0"sv), is(8, "CR"sv)}},
    {"Canon CRW raw", {is(0, "II"sv), is(6, "HEAPCCDR"sv)}},
    {"Olympus ORF raw", {is(0, "IIR"sv), among(3, "OS"sv)}},
    {"Olympus ORF raw", {is(0, "MMOR"sv)}},
    {"Panasonic RW2 raw", {is(0, "IIU\0"sv)}},
    {"Fujifilm RAF raw", {is(0, "FUJIFILMCCD-RAW"sv)}},
    {"Minolta MRW raw", {is(0, "\0MRM"sv)}},
    {"Sigma X3F raw", {is(0, "FOVb"sv)}},
    {"JPEG XL", {is(0, "\xff\x0a"sv)}},
    {"JPEG XL", {is(0, "\0\0\0\x0cJXL \r\n\x87\n"sv)}},
    {"JPEG XR", {is(0, "II\xbc"sv), among(3, "\0\1"sv)}},
    {"PDF", {is(0, "%PDF-"sv)}},
    {"EPS", {is(0, "%!PS"sv)}},
    {"EPS", {is(0, "\xc5\xd0\xd3\xc6"sv)}},
    {"DICOM", {is(128, "DICM"sv)}},
    {"PSD", {is(0, "8BPS\0"sv), among(5, "\1\2"sv)}},
    {"XCF", {is(0, "gimp xcf "sv)}},
    {"OpenEXR", {is(0, "\x76\x2f\x31\x01"sv)}},
    {"Radiance HDR", {is(0, "#?RADIANCE"sv)}},
    {"Radiance HDR", {is(0, "#?RGBE"sv)}},
    {"FITS", {is(0, "SIMPLE  =                    T"sv)}},
    {"QOI", {is(0, "qoif"sv), among(12, "\3\4"sv), among(13, "\0\1"sv)}},
    {"ICO or CUR", {is(0, "\0\0"sv), among(2, "\1\2"sv), is(3, "\0"sv), not_among(4, "\0"sv), is(5, "\0"sv)}},
    {"ICNS", {is(0, "icns"sv)}},
    {"DDS", {is(0, "DDS \x7c"sv)}},
    {"KTX", {is(0, "\xabKTX "sv), among(5, "12"sv), among(6, "10"sv), is(7, "\xbb"sv)}},
    {"BPG", {is(0, "BPG\xfb"sv)}},
    {"MNG or JNG", {is(0, "\x8a"sv), among(1, "MJ"sv), is(2, "NG\r\n\x1a\n"sv)}},
    {"DjVu", {is(0, "AT&TFORM"sv)}},
    {"WMF", {is(0, "\xd7\xcd\xc6\x9a"sv)}},
    {"EMF", {is(0, "\x01\0\0\0"sv), is(40, " EMF"sv)}},
    {"SGI", {is(0, "\x01\xda"sv), among(2, "\0\1"sv), among(3, "\1\2"sv), is(4, "\0"sv), among(5, "\1\2\3"sv)}},
    {"Sun raster", {is(0, "\x59\xa6\x6a\x95"sv)}},
    {"PCX", {is(0, "\n"sv), among(1, "\0\2\3\5"sv), is(2, "\x01"sv), among(3, "\1\2\4\x08"sv)}},
    {"XPM", {is(0, "/* XPM */"sv)}},
    {"HDF5", {is(0, "\x89HDF\r\n\x1a\n"sv)}},
    {"GRIB", {is(0, "GRIB"sv), among(7, "\1\2"sv)}},
    {"PAM", {is(0, "P7\nWIDTH "sv)}},
};

// Formats that the Python package decodes and this library does not.
constexpr Signature python_only[] = {
    {"BMP", {is(0, "BM"sv), among(14, "\x0c\x10\x28\x34\x38\x40\x6c\x7c"sv), is(15, "\0\0\0"sv)}},
    {"GIF", {is(0, "GIF8"sv), among(4, "79"sv), is(5, "a"sv)}},
    {"JPEG 2000", {is(0, "\xff\x4f\xff\x51"sv)}},
    {"JPEG 2000", {is(0, "\0\0\0\x0cjP  \r\n\x87\n"sv)}},
    {"WEBP", {is(0, "RIFF"sv), is(8, "WEBP"sv)}},
    {"TIFF", {is(0, "II"sv), among(2, "*+"sv), is(3, "\0"sv)}},
    {"TIFF", {is(0, "MM\0"sv), among(3, "*+"sv)}},
};

bool is_space(char letter) { return " \t\n\r\f\v"sv.find(letter) != std::string_view::npos; }

std::string_view without_spaces(std::string_view text) {
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    return text;
}

bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

bool is_pixmap(std::string_view text) {
    if (text.size() < 4 || text[0] != 'P' || "123456f"sv.find(text[1]) == std::string_view::npos || !is_space(text[2])) {
        return false;
    }
    text = without_spaces(text.substr(2));
    return !text.empty() && (text.front() == '#' || (text.front() >= '0' && text.front() <= '9'));
}

bool is_xbm(std::string_view text) {
    text = without_spaces(text);
    if (!starts(text, "#define "sv)) {
        return false;
    }
    text.remove_prefix(8);
    std::size_t length = 0;
    const auto is_word = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    };
    while (length < text.size() && is_word(text[length])) {
        ++length;
    }
    constexpr std::string_view end = "_width"sv;
    return length > end.size() && text.substr(length - end.size(), end.size()) == end && text.size() > length + 1 &&
           text[length] == ' ' && text[length + 1] >= '0' && text[length + 1] <= '9';
}

bool is_svg(std::string_view text) {
    if (starts(text, "\xef\xbb\xbf"sv)) {
        text.remove_prefix(3);
    }
    text = without_spaces(text);
    if (starts(text, "<?xml"sv)) {
        const std::size_t end = text.find('>');
        if (end == std::string_view::npos) {
            return false;
        }
        text = without_spaces(text.substr(end + 1));
    }
    while (starts(text, "<!--"sv)) {
        const std::size_t end = text.find("--"sv, 4);
        if (end == std::string_view::npos || text.substr(end, 3) != "-->"sv) {
            return false;
        }
        text = without_spaces(text.substr(end + 3));
    }
    if (starts(text, "<!DOCTYPE svg"sv)) {
        const std::size_t end = text.find('>');
        if (end == std::string_view::npos) {
            return false;
        }
        text = without_spaces(text.substr(end + 1));
    }
    return starts(text, "<svg"sv) && text.size() > 4 && (text[4] == '>' || is_space(text[4]));
}

/// Refuse a file of ISO boxes, by its brands.
[[noreturn]] void refuse_boxes(Bytes prefix) {
    const std::size_t end = std::min<std::size_t>(*prefix.u32(0), prefix.size());
    const std::string_view major = prefix.part(8, 4).text();
    if (major == "crx "sv) {
        fail_unread("Canon CR3 raw");
    }
    const auto has_brand = [&](std::initializer_list<std::string_view> names) {
        for (const std::string_view name : names) {
            if (major == name) {
                return true;
            }
            for (std::size_t place = 16; place < end; place += 4) {
                if (prefix.part(place, 4).text() == name) {
                    return true;
                }
            }
        }
        return false;
    };
    if (has_brand({"avif"sv, "avis"sv})) {
        fail_unread("AVIF");
    }
    if (has_brand({"heic"sv, "heix"sv, "heim"sv, "heis"sv, "hevc"sv, "hevx"sv, "hevm"sv, "hevs"sv, "mif1"sv, "msf1"sv,
                   "mif2"sv})) {
        fail_unread("HEIF");
    }
    for (const std::string_view video :
         {"qt  "sv, "isom"sv, "iso"sv, "mp4"sv, "avc1"sv, "M4V"sv, "3g"sv, "dash"sv, "MSNV"sv, "XAVC"sv}) {
        if (starts(major, video)) {
            fail(ALEXNET_DEPLOY_NOT_AN_IMAGE, "it is a video (MP4 or QuickTime)");
        }
    }
    fail(ALEXNET_DEPLOY_NOT_AN_IMAGE, "no decoder reads files of brand " + std::string(major));
}

}  // namespace

Format format_of(Bytes data) {
    const Bytes prefix = data.part(0, prefix_bytes);
    if (prefix.has(4, "ftyp"sv)) {
        refuse_boxes(prefix);
    }
    for (const Signature& signature : unread) {
        if (signature.matches(prefix)) {
            fail_unread(signature.name);
        }
    }
    if (prefix.starts_with("FLIF"sv) && prefix.size() > 4 && prefix[4] >= '1' && prefix[4] <= 0x7f) {
        fail_unread("FLIF");
    }
    if (is_svg(prefix.text())) {
        fail_unread("SVG");
    }
    if (is_xbm(prefix.text())) {
        fail_unread("XBM");
    }
    if (prefix.starts_with("\xff\xd8\xff"sv)) {
        return Format::jpeg;
    }
    if (prefix.starts_with("\x89PNG\r\n\x1a\n"sv)) {
        return Format::png;
    }
    for (const Signature& signature : python_only) {
        if (signature.matches(prefix)) {
            fail_unread(signature.name);
        }
    }
    if (is_pixmap(prefix.text())) {
        fail_unread("PPM");
    }
    const bool is_video =
        prefix.starts_with("\x1a\x45\xdf\xa3"sv) || (prefix.starts_with("RIFF"sv) && prefix.has(8, "AVI "sv));
    fail(ALEXNET_DEPLOY_NOT_AN_IMAGE,
         std::string("no decoder recognises its header") + (is_video ? ": it is a video" : ""));
}

}  // namespace alexnet_deploy
