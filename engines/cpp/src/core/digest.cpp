#include "core/digest.hpp"

#include <openssl/evp.h>

#include <array>
#include <stdexcept>

namespace alexnet_deploy {

std::string sha256(Bytes data) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int num_bytes = 0;
    if (EVP_Digest(data.data(), data.size(), digest.data(), &num_bytes, EVP_sha256(), nullptr) != 1) {
        throw std::runtime_error("OpenSSL cannot compute SHA-256");
    }
    constexpr const char* digits = "0123456789abcdef";
    std::string text;
    for (std::size_t index = 0; index < num_bytes; ++index) {
        text += digits[digest[index] >> 4];
        text += digits[digest[index] & 15];
    }
    return text;
}

}  // namespace alexnet_deploy
