// The format of a file by its first bytes: the twin of alexnet_deploy/core/codecs/formats.py.
#pragma once

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// The formats that this library decodes.
enum class Format { jpeg, png };

/// The format of a file. Throws Failure: unsupported_format for a known format that is not decoded here, not_an_image
/// for anything else.
Format format_of(Bytes data);

}  // namespace alexnet_deploy
