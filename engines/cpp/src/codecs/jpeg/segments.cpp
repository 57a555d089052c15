#include "codecs/jpeg/segments.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "codecs/exif.hpp"

namespace alexnet_deploy {
namespace {

using namespace std::string_view_literals;

constexpr int max_parts = 1 << 16;
constexpr std::int64_t max_note_bytes = std::int64_t{1} << 26;
constexpr std::int64_t max_stray_bytes = std::int64_t{1} << 18;
constexpr std::int64_t max_table_bytes = std::int64_t{1} << 16;
constexpr std::int64_t max_resources = 10'000;
constexpr std::int64_t max_exif_segments = 256;
constexpr std::int64_t max_scanned = 10;
constexpr std::int64_t max_memory = std::int64_t{1} << 30;
constexpr std::int64_t bytes_per_pixel = 4;

constexpr std::uint16_t resolution_info = 0x03ed;
constexpr int start_of_scan = 0xda, quantisation_table = 0xdb, end_of_image = 0xd9;

bool is_frame(int kind) { return kind >= 0xc0 && kind <= 0xcf && kind != 0xc4 && kind != 0xc8 && kind != 0xcc; }

/// Markers that Pillow knows: all from C0 on except FF.
bool is_known(int kind) { return kind >= 0xc0 && kind <= 0xfe; }

/// Markers that Pillow reads as a frame header; DHP too.
bool reads_as_frame(int kind) { return is_frame(kind) || kind == 0xde; }

/// Markers without content, as Pillow sees them.
bool stands_alone(int kind) {
    return kind == 0xc8 || (kind >= 0xd0 && kind <= 0xd9) || (kind >= 0xf0 && kind <= 0xfd);
}

/// The length at this place; of the last byte alone, where the file ends there.
std::size_t stated_length(Bytes data, std::size_t place) {
    return data.u16(place).value_or(place < data.size() ? data[place] : 0);
}

std::int64_t count_of(std::string_view text, std::string_view what) {
    std::int64_t found = 0;
    for (std::size_t place = text.find(what); place != text.npos; place = text.find(what, place + what.size())) {
        ++found;
    }
    return found;
}

/// What one segment says; throws Failure (truncated) where Pillow's parser would stop.
class HeaderReader {
public:
    explicit HeaderReader(JpegHeader& header) : header_(header) {}

    void read(int kind, Bytes segment) {
        if (reads_as_frame(kind)) {
            read_frame(kind, segment);
        } else if (kind == quantisation_table) {
            check_tables(segment);
        } else if (kind >= 0xe0 && kind <= 0xef) {
            read_application(kind & 15, segment);
        }
    }

    /// Throws Failure (truncated) where Pillow fails on the whole header.
    void finish() const {
        if (header_.exif && !has_resolution_ && has_fatal_resolution(*header_.exif)) {
            fail_damaged("JPEG", "its resolution in EXIF is cut off");
        }
    }

private:
    void read_frame(int kind, Bytes segment) {
        if (segment.size() < 6 || (segment.size() - 6) % 3 != 0) {
            fail_damaged("JPEG", "its frame header is cut off");
        }
        header_.height = *segment.u16(1);
        header_.width = *segment.u16(3);
        if (segment[0] != 8) {
            fail_damaged("JPEG", "cannot handle " + std::to_string(segment[0]) + "-bit layers");
        }
        header_.num_layers = segment[5];
        if (header_.num_layers != 1 && header_.num_layers != 3 && header_.num_layers != 4) {
            fail_damaged("JPEG", "cannot handle " + std::to_string(header_.num_layers) + "-layer images");
        }
        if (kind == 0xc2 || kind == 0xc6 || kind == 0xca || kind == 0xce) {
            header_.is_progressive = true;
        }
        join_profile();
        for (std::size_t place = 6; place < segment.size(); place += 3) {
            layers_.push_back({segment[place + 1] / 16, segment[place + 1] & 15});
        }
        // Pillow's list of layers grows with each frame header; the last ones count.
        const std::size_t count = std::min<std::size_t>(layers_.size(), static_cast<std::size_t>(header_.num_layers));
        int widest = 1, highest = 1, sum = 0;
        for (auto layer = layers_.end() - static_cast<std::ptrdiff_t>(count); layer != layers_.end(); ++layer) {
            widest = std::max(widest, (*layer)[0]);
            highest = std::max(highest, (*layer)[1]);
            sum += (*layer)[0] * (*layer)[1];
        }
        header_.samples_per_pixel = static_cast<double>(sum) / (widest * highest);
    }

    void join_profile() {
        if (fragments_.empty()) {
            return;
        }
        std::sort(fragments_.begin(), fragments_.end(), [](Bytes a, Bytes b) { return a.text() < b.text(); });
        if (fragments_.front().size() < 14) {
            fail_damaged("JPEG", "its colour profile is cut off");
        }
        header_.icc_profile.reset();
        if (fragments_.front()[13] == fragments_.size()) {
            std::vector<std::uint8_t> profile;
            for (const Bytes fragment : fragments_) {
                const Bytes content = fragment.part(14);
                profile.insert(profile.end(), content.begin(), content.end());
            }
            header_.icc_profile = std::move(profile);
        }
        fragments_.clear();
    }

    static void check_tables(Bytes segment) {
        while (!segment.empty()) {
            const std::size_t num_bytes = 1 + (segment[0] < 16 ? 64 : 128);
            if (segment.size() < num_bytes) {
                fail_damaged("JPEG", "bad quantization table marker");
            }
            segment = segment.part(num_bytes);
        }
    }

    void read_application(int number, Bytes segment) {
        const bool is_short = segment.size() < 7;
        if ((number == 0 && segment.starts_with("JFIF") && is_short) ||
            (number == 14 && segment.starts_with("Adobe") && is_short)) {
            fail_damaged("JPEG", "an application segment is cut off");
        }
        if (number == 0 && segment.starts_with("JFIF") && segment.size() >= 12 && (segment[7] == 1 || segment[7] == 2)) {
            has_resolution_ = true;
        }
        if (number == 1 && segment.starts_with("Exif\0\0"sv)) {
            if (header_.exif) {
                const Bytes more = segment.part(6);
                header_.exif->insert(header_.exif->end(), more.begin(), more.end());
            } else {
                header_.exif.emplace(segment.begin(), segment.end());
            }
        } else if (number == 1 && segment.starts_with("http://ns.adobe.com/xap/1.0/\0"sv)) {
            header_.xmp = segment.part(29);
        } else if (number == 2 && segment.starts_with("ICC_PROFILE\0"sv)) {
            fragments_.push_back(segment);
        } else if (number == 13 && segment.starts_with("Photoshop 3.0\0"sv)) {
            check_resources(segment);
        }
    }

    /// Pillow stops at a resource that ends before its name does; any other cut is ignored.
    static void check_resources(Bytes segment) {
        std::uint64_t place = 14;
        while (segment.has(place, "8BIM")) {
            const auto code = segment.u16(place + 4);
            if (!code) {
                return;
            }
            place += 6;
            if (place >= segment.size()) {
                fail_damaged("JPEG", "a Photoshop resource is cut off");
            }
            place += 1 + std::uint64_t{segment[place]};
            place += place & 1;
            const auto num_bytes = segment.u32(place);
            if (!num_bytes || (*code == resolution_info && segment.part(place + 4, *num_bytes).size() < 14)) {
                return;
            }
            place += 4 + std::uint64_t{*num_bytes};
            place += place & 1;
        }
    }

    JpegHeader& header_;
    bool has_resolution_ = false;
    std::vector<std::array<int, 2>> layers_;
    std::vector<Bytes> fragments_;
};

[[noreturn]] void fail_process(const std::string& name) {
    fail(ALEXNET_DEPLOY_UNSUPPORTED_FORMAT, name + " is not supported: supported formats are JPEG, PNG");
}

void check_scans(Bytes data, std::int64_t max_scans) {
    // Counting two bytes is much faster than walking the segments.
    if (count_of(data.text(), "\xff\xda") <= max_scans) {
        return;
    }
    std::int64_t num_scans = 0;
    std::size_t place = 2;
    while (place + 1 < data.size()) {
        const auto* marker = static_cast<const std::uint8_t*>(std::memchr(data.data() + place, 0xff, data.size() - place));
        if (marker == nullptr) {
            break;
        }
        place = static_cast<std::size_t>(marker - data.data());
        while (place < data.size() && data[place] == 0xff) {
            ++place;
        }
        const int kind = place < data.size() ? data[place] : 0;
        const bool is_segment = (kind >= 0xc0 && kind <= 0xcf) || (kind >= 0xd9 && kind <= 0xfe);
        if (!is_segment) {
            continue;
        }
        if (kind == end_of_image) {
            break;
        }
        num_scans += kind == start_of_scan;
        ++place;
        place += stated_length(data, place);
    }
    check_count(num_scans, max_scans, "scans");
}

}  // namespace

void refuse_jpeg_process(Bytes data) {
    std::size_t place = 2;
    for (int part = 0; part < max_parts; ++part) {
        if (place + 4 >= data.size() || data[place] != 0xff) {
            return;
        }
        const int kind = data[place + 1];
        if (kind == 0xff) {
            ++place;
            continue;
        }
        if (kind == 0xf7) {
            fail_process("JPEG-LS");
        }
        if (is_frame(kind)) {
            if (kind > 0xc3 && kind != 0xc9 && kind != 0xca) {
                fail_process("hierarchical or arithmetic lossless JPEG");
            }
            if (data[place + 4] != 8) {
                fail_process("JPEG of " + std::to_string(data[place + 4]) + " bits per sample");
            }
            return;
        }
        if (kind == start_of_scan) {
            return;
        }
        const bool alone = kind == 0x01 || (kind >= 0xd0 && kind <= 0xd8);
        place += 2 + (alone ? 0 : std::size_t{*data.u16(place + 2)});
    }
}

std::size_t check_jpeg_segments(Bytes data) {
    std::size_t place = 2, start = data.size();
    std::int64_t number = 0, num_stray = 0, num_table_bytes = 0;
    bool is_done = false;
    while (!is_done) {
        const std::size_t end = std::min(data.size(), place + static_cast<std::size_t>(max_stray_bytes));
        std::size_t marker = place;
        while (marker + 1 < end && !(data[marker] == 0xff && data[marker + 1] != 0xff && data[marker + 1] != 0)) {
            ++marker;
        }
        if (marker + 1 >= end) {
            check_count(static_cast<std::int64_t>(data.size() - std::min(place, data.size())), max_stray_bytes,
                        "bytes between segments");
            start = data.size();
            break;
        }
        ++number;
        num_stray += static_cast<std::int64_t>(marker - place);
        const int kind = data[marker + 1];
        place = start = marker + 2;
        if (!is_known(kind)) {
            return data.size();
        }
        if (!stands_alone(kind)) {
            const std::int64_t num_bytes =
                std::max(static_cast<std::int64_t>(stated_length(data, place)), std::int64_t{2});
            num_table_bytes += kind == quantisation_table || reads_as_frame(kind) ? num_bytes : 0;
            place += static_cast<std::size_t>(num_bytes);
        }
        check_count(number, max_parts, "segments");
        check_count(num_stray, max_stray_bytes, "bytes between segments");
        check_count(num_table_bytes, max_table_bytes, "bytes of tables");
        is_done = kind == start_of_scan;
    }
    check_count(static_cast<std::int64_t>(std::min(place, data.size())), max_note_bytes, "bytes before its pixels");
    check_count(count_of(data.part(0, place).text(), "8BIM"), max_resources, "Photoshop resources");
    return start;
}

JpegHeader read_jpeg_header(Bytes data) {
    JpegHeader header;
    header.first_scan = check_jpeg_segments(data);
    check_count(count_of(data.text(), "Exif\0\0"sv), max_exif_segments, "EXIF segments");
    HeaderReader reader(header);
    std::size_t place = 2;
    // Pillow's walk: bytes that are not a marker are skipped one at a time.
    while (place + 1 < data.size()) {
        const int kind = data[place + 1];
        if (data[place] != 0xff || kind == 0) {
            place += data[place] == 0xff ? 2 : 1;
            continue;
        }
        if (kind == 0xff) {
            ++place;
            continue;
        }
        if (!is_known(kind)) {
            fail_damaged("JPEG", "no marker found");
        }
        place += 2;
        if (stands_alone(kind)) {
            continue;
        }
        const auto stated = data.u16(place);
        const std::size_t num_bytes = stated && *stated > 2 ? *stated - 2U : 0U;
        const Bytes segment = data.part(place + 2, num_bytes);
        if (!stated || segment.size() < num_bytes) {
            fail_damaged("JPEG", "a segment is cut off");
        }
        reader.read(kind, segment);
        place += 2 + num_bytes;
        if (kind == start_of_scan) {
            header.has_scan = true;
            break;
        }
    }
    reader.finish();
    if (header.num_layers == 0 || header.width == 0 || header.height == 0) {
        fail_damaged("JPEG", "it has no size");
    }
    return header;
}

void check_jpeg_work(const JpegHeader& header, Bytes data, const Limits& limits) {
    const std::int64_t num_pixels = std::int64_t{header.width} * header.height;
    std::int64_t needed = num_pixels * (header.num_layers == 1 ? 1 : 4);
    // A scan of all layers is the only one, and libjpeg keeps no coefficients.
    const Bytes layers = data.part(header.first_scan + 2, 1);
    if (header.is_progressive || layers.empty() || layers[0] != header.num_layers) {
        needed += static_cast<std::int64_t>(
            std::nearbyint(2 * static_cast<double>(num_pixels) * header.samples_per_pixel));
    }
    const std::int64_t largest = std::max(max_memory, limits.max_pixels * bytes_per_pixel);
    if (needed > largest) {
        fail(ALEXNET_DEPLOY_TOO_LARGE, "its decoder needs " + with_commas(needed) + " bytes of memory, the limit is " +
                                           with_commas(largest) + "; raise it with max_pixels of alexnet_deploy_limits");
    }
    check_scans(data, std::min(limits.max_scans, max_scanned * limits.max_pixels / num_pixels));
}

}  // namespace alexnet_deploy
