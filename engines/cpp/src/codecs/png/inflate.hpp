// zlib's stream, owned.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <new>
#include <optional>
#include <vector>

#include "core/bytes.hpp"

namespace alexnet_deploy {

/// A stream of compressed bytes.
class InflateStream {
public:
    InflateStream() {
        if (inflateInit(&stream_) != Z_OK) {
            throw std::bad_alloc();
        }
    }
    ~InflateStream() { inflateEnd(&stream_); }
    InflateStream(const InflateStream&) = delete;
    InflateStream& operator=(const InflateStream&) = delete;

    void feed(Bytes piece) {
        // zlib's interface lacks const, but it does not write to its input.
        stream_.next_in = const_cast<Bytef*>(piece.data());
        stream_.avail_in = static_cast<uInt>(piece.size());
    }
    [[nodiscard]] bool is_hungry() const { return stream_.avail_in == 0; }

    /// Write up to `room` bytes; returns zlib's code. `written` receives their number.
    int read(std::uint8_t* out, std::size_t room, std::size_t& written) {
        stream_.next_out = out;
        stream_.avail_out = static_cast<uInt>(room);
        const int code = inflate(&stream_, Z_NO_FLUSH);
        written = room - stream_.avail_out;
        return code;
    }

private:
    z_stream stream_{};
};

/// Compressed metadata, at most `most_bytes` of them.
struct Inflated {
    enum Outcome { done, damaged, too_long } outcome;
    std::vector<std::uint8_t> content;  ///< Of a stream that ends early, what is there.
};

inline Inflated inflate_metadata(Bytes compressed, std::size_t most_bytes) {
    InflateStream stream;
    stream.feed(compressed);
    Inflated found{Inflated::done, {}};
    while (!stream.is_hungry()) {
        const std::size_t filled = found.content.size();
        if (filled == most_bytes) {
            found.outcome = Inflated::too_long;
            break;
        }
        const std::size_t room = std::min(most_bytes - filled, std::max<std::size_t>(filled, 4096));
        found.content.resize(filled + room);
        std::size_t written = 0;
        const int code = stream.read(found.content.data() + filled, room, written);
        found.content.resize(filled + written);
        if (code == Z_STREAM_END) {
            break;
        }
        if (code != Z_OK && code != Z_BUF_ERROR) {
            return {Inflated::damaged, {}};
        }
    }
    return found;
}

}  // namespace alexnet_deploy
