// JPEG by libjpeg-turbo: grey, colour, CMYK and YCCK, baseline and progressive, as Pillow decodes them.
#pragma once

#include "codecs/image.hpp"
#include "codecs/limits.hpp"
#include "core/bytes.hpp"

namespace alexnet_deploy {

/// Decode a JPEG. Throws Failure (unsupported_format, too_large, truncated).
StoredImage decode_jpeg(Bytes data, const Limits& limits);

}  // namespace alexnet_deploy
