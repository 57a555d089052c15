// PNG by zlib, as Pillow decodes it: every depth and colour type, interlaced or not, transparency on white.
#pragma once

#include "codecs/image.hpp"
#include "codecs/limits.hpp"
#include "core/bytes.hpp"

namespace alexnet_deploy {

/// Decode a PNG. Throws Failure (too_large, truncated, unsupported_format).
StoredImage decode_png(Bytes data, const Limits& limits);

}  // namespace alexnet_deploy
