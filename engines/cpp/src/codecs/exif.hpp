// The orientation of an image by its EXIF or XMP metadata, as Pillow finds it.
#pragma once

#include <optional>

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// The orientation that EXIF data and, where they do not name one, XMP data state; 1 if neither does.
int orientation_of(std::optional<Bytes> exif, std::optional<Bytes> xmp);

/// Whether Pillow refuses a JPEG for its EXIF resolution, an empty text or a single byte: it looks for a second value.
bool has_fatal_resolution(Bytes exif);

}  // namespace alexnet_deploy
