// JPEG by libjpeg-turbo: grey, colour, CMYK and YCCK, baseline and progressive, as Pillow decodes them.
#pragma once

#include "alexnet_deploy.h"
#include "codecs/image.hpp"
#include "codecs/limits.hpp"
#include "core/bytes.hpp"

namespace alexnet_deploy {

/// Decode a JPEG; with `decoding` scaled, a large one at 1/2, 1/4 or 1/8, as its header says. Throws Failure (unsupported_format, too_large, truncated).
StoredImage decode_jpeg(Bytes data, alexnet_deploy_decoding decoding, const Limits& limits);

}  // namespace alexnet_deploy
