// Resize an image to the network's 256 x 256 pixels, bit-identical to alexnet_deploy/core/images/resize.py.
#pragma once

#include <cstdint>

#include "alexnet_deploy.h"
#include "images/pixels.hpp"

namespace alexnet_deploy {

/// Write a view as uint8 (256, 256, 3), RGB. Width and height are at least 1.
void to_square(const PixelView& view, alexnet_deploy_resize resize, std::uint8_t* square);

}  // namespace alexnet_deploy
