#include "images/decode.hpp"

#include <cerrno>
#include <new>

#include "codecs/formats.hpp"
#include "codecs/jpeg/decoder.hpp"
#include "codecs/png/decoder.hpp"
#include "core/files.hpp"
#include "images/square.hpp"

namespace alexnet_deploy {
namespace {

StoredImage decode_stored(Bytes data, alexnet_deploy_decoding decoding, const Limits& limits) {
    switch (format_of(data)) {
        case Format::jpeg: return decode_jpeg(data, decoding, limits);
        case Format::png: return decode_png(data, limits);
    }
    fail(ALEXNET_DEPLOY_INTERNAL_ERROR, "a format without a decoder");
}

}  // namespace

void decode_image(Bytes data, alexnet_deploy_image_policy policy, const Limits& limits, std::uint8_t* square) {
    if (data.empty()) {
        fail(ALEXNET_DEPLOY_EMPTY, "the file has no bytes");
    }
    refuse_long(data.size(), limits);
    try {
        const StoredImage image = decode_stored(data, policy.decoding, limits);
        const PixelView stored = PixelView::of(image.pixels).reduced(image.reduction);
        to_square(stored.upright(image.orientation), policy.resize, square);
        if (image.conversion) {
            image.conversion->apply(square, std::size_t{side} * side);
        }
    } catch (const std::bad_alloc&) {
        fail(ALEXNET_DEPLOY_TOO_LARGE, "no memory to decode it in");
    }
}

std::vector<std::uint8_t> read_image_file(const std::filesystem::path& path, const Limits& limits) {
    try {
        const PlainFile file(path, Links::followed);
        refuse_long(file.size(), limits);
        if (file.size() == 0 && file.holds_more_than_stated()) {
            fail(ALEXNET_DEPLOY_UNREADABLE, "it reports 0 bytes but holds some; it is not a stored file");
        }
        return file.read();
    } catch (const FileError& error) {
        if (error.number == ENOENT) {
            fail(ALEXNET_DEPLOY_MISSING, "there is no such file");
        }
        fail(ALEXNET_DEPLOY_UNREADABLE, error.what());
    }
}

}  // namespace alexnet_deploy
