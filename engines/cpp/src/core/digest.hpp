// SHA-256.
#pragma once

#include <string>

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// The digest of bytes as 64 hexadecimal digits.
std::string sha256(Bytes data);

}  // namespace alexnet_deploy
