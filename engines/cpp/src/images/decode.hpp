// Decode one image file to one square: the twin of alexnet_deploy/core/images/decode.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "alexnet_deploy.h"
#include "codecs/limits.hpp"
#include "core/bytes.hpp"

namespace alexnet_deploy {

/// Write the image in the bytes of one file as a square. Throws Failure with the code of an image.
void decode_image(Bytes data, alexnet_deploy_image_policy policy, const Limits& limits, std::uint8_t* square);

/// The bytes of an image file. Throws Failure (missing, unreadable, too_large).
std::vector<std::uint8_t> read_image_file(const std::filesystem::path& path, const Limits& limits);

}  // namespace alexnet_deploy
