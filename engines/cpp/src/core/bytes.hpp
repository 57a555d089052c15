// A view of bytes that someone else owns, with reads that cannot leave it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace alexnet_deploy {

/// A view of bytes; like std::span, which C++17 lacks.
class Bytes {
public:
    constexpr Bytes() = default;
    constexpr Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    /// Any container of uint8_t.
    template <typename Container>
    Bytes(const Container& container) : data_(container.data()), size_(container.size()) {}

    [[nodiscard]] constexpr const std::uint8_t* data() const { return data_; }
    [[nodiscard]] constexpr std::size_t size() const { return size_; }
    [[nodiscard]] constexpr bool empty() const { return size_ == 0; }
    [[nodiscard]] constexpr const std::uint8_t* begin() const { return data_; }
    [[nodiscard]] constexpr const std::uint8_t* end() const { return data_ + size_; }
    [[nodiscard]] constexpr std::uint8_t operator[](std::size_t index) const { return data_[index]; }

    /// The part from `start`, at most `count` bytes; shorter or empty where the bytes end, as a slice in Python.
    [[nodiscard]] constexpr Bytes part(std::size_t start, std::size_t count = SIZE_MAX) const {
        start = std::min(start, size_);
        return {data_ + start, std::min(count, size_ - start)};
    }

    [[nodiscard]] std::string_view text() const {
        return {reinterpret_cast<const char*>(data_), size_};
    }

    /// Whether `words` stand at this place.
    [[nodiscard]] bool has(std::size_t place, std::string_view words) const {
        return part(place, words.size()).text() == words;
    }

    [[nodiscard]] bool starts_with(std::string_view words) const { return has(0, words); }

    /// Big-endian numbers; none where the bytes end before the number does.
    [[nodiscard]] std::optional<std::uint16_t> u16(std::size_t place) const {
        const auto wide = number(place, 2, true);
        return wide ? std::optional(static_cast<std::uint16_t>(*wide)) : std::nullopt;
    }
    [[nodiscard]] std::optional<std::uint32_t> u32(std::size_t place) const {
        const auto wide = number(place, 4, true);
        return wide ? std::optional(static_cast<std::uint32_t>(*wide)) : std::nullopt;
    }

    /// A number of up to eight bytes in either order; none where the bytes end before it does.
    [[nodiscard]] std::optional<std::uint64_t> number(std::size_t place, std::size_t count, bool is_big_endian) const {
        if (place > size_ || size_ - place < count) {
            return std::nullopt;
        }
        std::uint64_t value = 0;
        for (std::size_t index = 0; index < count; ++index) {
            value = value << 8 | data_[place + (is_big_endian ? index : count - 1 - index)];
        }
        return value;
    }

private:
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace alexnet_deploy
