// What a decoder returns: pixels as stored, and what else the file says about them.
#pragma once

#include <optional>

#include "images/pixels.hpp"
#include "images/profile.hpp"

namespace alexnet_deploy {

struct StoredImage {
    Bitmap pixels;
    Reduction reduction{pixels.width, pixels.height, 1};
    int orientation = 1;  ///< EXIF orientation, 1 to 8; other values mean nothing.
    std::optional<ToSrgb> conversion = std::nullopt;
};

}  // namespace alexnet_deploy
