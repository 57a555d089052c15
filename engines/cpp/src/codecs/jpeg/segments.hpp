// The segments of a JPEG before its pixels, read as Pillow reads them, with the limits of core/codecs/parts.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "codecs/limits.hpp"
#include "core/bytes.hpp"

namespace alexnet_deploy {

struct JpegHeader {
    int width = 0;
    int height = 0;
    int num_layers = 0;  ///< 1 (grey), 3 (RGB) or 4 (CMYK).
    bool is_progressive = false;
    bool has_scan = false;
    double samples_per_pixel = 1.0;  ///< Of all layers, with their subsampling.
    std::size_t first_scan = 0;      ///< Start of the content of the first scan header; the file's end without one.
    std::optional<std::vector<std::uint8_t>> exif;
    std::optional<Bytes> xmp;
    std::optional<std::vector<std::uint8_t>> icc_profile;
};

/// Refuse a JPEG whose coding process libjpeg cannot decode to 8 bits. Throws Failure (unsupported_format).
void refuse_jpeg_process(Bytes data);

/// Refuse a JPEG with too many segments. Throws Failure (too_large). Returns JpegHeader::first_scan.
std::size_t check_jpeg_segments(Bytes data);

/// Read the header up to the first scan. Throws Failure (truncated).
JpegHeader read_jpeg_header(Bytes data);

/// Refuse a JPEG whose decoding would take too much memory or decode its pixels too often. Throws Failure (too_large).
void check_jpeg_work(const JpegHeader& header, Bytes data, const Limits& limits);

}  // namespace alexnet_deploy
