// The orientation of an image by its EXIF or XMP metadata, as Pillow finds it.
#pragma once

#include <optional>

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// The orientation that EXIF data and, where they do not name one, XMP data state; 1 if neither does.
int orientation_of(std::optional<Bytes> exif, std::optional<Bytes> xmp);

}  // namespace alexnet_deploy
