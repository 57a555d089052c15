// Numbers and names in messages, as the Python package writes them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace alexnet_deploy {

/// 1234567 as "1,234,567".
template <typename Number>
std::string with_commas(Number number) {
    std::string digits = std::to_string(number);
    const auto sign = static_cast<std::ptrdiff_t>(digits.front() == '-');
    for (auto place = static_cast<std::ptrdiff_t>(digits.size()) - 3; place > sign; place -= 3) {
        digits.insert(static_cast<std::size_t>(place), ",");
    }
    return digits;
}

/// "1 byte", "2,048 bytes".
template <typename Number>
std::string counted(Number number, std::string_view what) {
    return with_commas(number) + " " + std::string(what) + (number == 1 ? "" : "s");
}

/// Text with its control characters written as in Python's repr(), and so on one line, "\n" or "\x1b".
inline std::string escaped(const std::string& text) {
    constexpr std::string_view named = "\n\r\t", letters = "nrt", digits = "0123456789abcdef";
    std::string line;
    for (const char letter : text) {
        const auto code = static_cast<unsigned char>(letter);
        if (const std::size_t place = named.find(letter); place != named.npos) {
            line += {'\\', letters[place]};
        } else if (code < 0x20 || code == 0x7f) {
            line += {'\\', 'x', digits[code >> 4U], digits[code & 0xfU]};
        } else {
            line += letter;
        }
    }
    return line;
}

}  // namespace alexnet_deploy
