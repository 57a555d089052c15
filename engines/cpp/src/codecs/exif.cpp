// Source: Pillow, Image.Exif.load and TiffImagePlugin.ImageFileDirectory_v2.load. Broken metadata never makes an image
// unusable: the pixels are decoded, the orientation is 1.
#include "codecs/exif.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace alexnet_deploy {
namespace {

constexpr std::uint64_t orientation_tag = 0x0112, resolution_tag = 0x011a, resolution_unit_tag = 0x0128;
constexpr std::uint64_t byte_type = 1, text_type = 2, undefined_type = 7;

/// Bytes of one value of a type of TIFF 6.0 and BigTIFF; 0 for an unknown type.
std::uint64_t unit_bytes(std::uint64_t type) {
    switch (type) {
        case 1: case 2: case 6: case 7: return 1;
        case 3: case 8: return 2;
        case 4: case 9: case 11: case 13: return 4;
        case 5: case 10: case 12: case 16: return 8;
        default: return 0;
    }
}

/// The orientation in the bytes of its tag, 1 to 8; 0 for anything else. Any type of number may hold it.
int orientation_in(Bytes value, std::uint64_t type, bool is_big_endian) {
    const auto at = [&](std::size_t place, std::size_t count) {
        return value.number(place, count, is_big_endian).value_or(0);
    };
    const auto if_valid = [](auto number) {
        return number >= 1 && number <= 8 && number == static_cast<decltype(number)>(static_cast<int>(number))
                   ? static_cast<int>(number)
                   : 0;
    };
    switch (type) {
        case 3: case 8: return if_valid(at(0, 2));
        case 4: case 9: case 13: return if_valid(at(0, 4));
        case 16: return if_valid(at(0, 8));
        case 6: return if_valid(at(0, 1));
        case 5: case 10: {
            const std::uint64_t above = at(0, 4), below = at(4, 4);
            return below != 0 && above % below == 0 ? if_valid(above / below) : 0;
        }
        case 11: {
            const auto bits = static_cast<std::uint32_t>(at(0, 4));
            float number = 0;
            std::memcpy(&number, &bits, sizeof number);
            return if_valid(number);
        }
        case 12: {
            const std::uint64_t bits = at(0, 8);
            double number = 0;
            std::memcpy(&number, &bits, sizeof number);
            return if_valid(number);
        }
        default: return 0;
    }
}

struct Entry {
    std::uint64_t tag;
    std::uint64_t type;
    Bytes value;
};

struct Directory {
    bool is_readable = true;  ///< Whether the EXIF data have a valid header, or are empty.
    bool is_big_endian = false;
    std::vector<Entry> entries{};

    /// The first entry of a tag; null without one.
    [[nodiscard]] const Entry* find(std::uint64_t tag) const {
        const auto found =
            std::find_if(entries.begin(), entries.end(), [tag](const Entry& entry) { return entry.tag == tag; });
        return found == entries.end() ? nullptr : &*found;
    }
};

Directory read_directory(Bytes exif) {
    for (int repeat = 0; repeat < 2 && exif.starts_with({"Exif\0\0", 6}); ++repeat) {
        exif = exif.part(6);
    }
    if (exif.empty()) {
        return {};
    }
    Directory directory{true, exif.starts_with("MM")};
    const auto number = [&](std::size_t place, std::size_t count) {
        return exif.number(place, count, directory.is_big_endian);
    };
    // Pillow reads a big-endian BigTIFF as a TIFF, and no little-endian one.
    const bool is_tiff = exif.starts_with({"MM\0\x2b", 4}) || exif.starts_with({"MM\0\x2a", 4}) ||
                         exif.starts_with({"II\x2a\0", 4}) || exif.starts_with({"MM\x2a\0", 4}) ||
                         exif.starts_with({"II\0\x2a", 4});
    const auto start = number(4, 4);
    if (!is_tiff || !start) {
        return {false};
    }
    const std::uint64_t count = number(*start, 2).value_or(0);
    std::uint64_t total_bytes = 0;
    std::vector<bool> is_known(1 << 16);
    for (std::uint64_t index = 0; index < count; ++index) {
        const std::size_t entry = *start + 2 + 12 * index;
        if (exif.part(entry, 12).size() < 12) {
            break;
        }
        const std::uint64_t tag = *number(entry, 2), type = *number(entry + 2, 2);
        const std::uint64_t num_bytes = *number(entry + 4, 4) * unit_bytes(type);
        Bytes value = exif.part(entry + 8, std::min<std::uint64_t>(num_bytes, 4));
        if (is_known[tag]) {
            continue;
        }
        if (num_bytes > 4) {
            total_bytes += num_bytes;
            if (total_bytes > exif.size()) {
                continue;
            }
            value = exif.part(*number(entry + 8, 4), num_bytes);
            if (value.size() < num_bytes) {
                break;
            }
        }
        if (!value.empty()) {
            directory.entries.push_back({tag, type, value});
            is_known[tag] = true;
        }
    }
    return directory;
}

/// The digit after tiff:Orientation=" or tiff:Orientation>.
std::optional<int> look_in_xmp(std::string_view xmp) {
    constexpr std::string_view name = "tiff:Orientation";
    for (std::size_t place = xmp.find(name); place != std::string_view::npos; place = xmp.find(name, place + 1)) {
        std::string_view rest = xmp.substr(place + name.size());
        if (rest.substr(0, 2) == "=\"") {
            rest.remove_prefix(2);
        } else if (rest.substr(0, 1) == ">") {
            rest.remove_prefix(1);
        } else {
            continue;
        }
        if (!rest.empty() && rest.front() >= '0' && rest.front() <= '9') {
            return rest.front() - '0';
        }
    }
    return std::nullopt;
}

}  // namespace

int orientation_of(std::optional<Bytes> exif, std::optional<Bytes> xmp) {
    const Directory directory = exif ? read_directory(*exif) : Directory{};
    if (!directory.is_readable) {
        return 1;
    }
    if (const Entry* entry = directory.find(orientation_tag)) {
        return orientation_in(entry->value, entry->type, directory.is_big_endian);
    }
    return xmp ? look_in_xmp(xmp->text()).value_or(1) : 1;
}

bool has_fatal_resolution(Bytes exif) {
    const Directory directory = read_directory(exif);
    const Entry* entry = directory.find(resolution_tag);
    if (entry == nullptr || directory.find(resolution_unit_tag) == nullptr) {
        return false;
    }
    std::string_view text = entry->value.text();
    if (entry->type == text_type) {
        if (text.back() == '\0') {
            text.remove_suffix(1);
        }
        return text.empty() || (text.size() == 1 && text[0] >= '0' && text[0] <= '9');
    }
    return (entry->type == byte_type || entry->type == undefined_type) && text.size() == 1;
}

}  // namespace alexnet_deploy
