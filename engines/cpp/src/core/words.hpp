// Numbers and names in messages, as the Python package writes them.
#pragma once

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

}  // namespace alexnet_deploy
