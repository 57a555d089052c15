#include <zlib.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/bytes.hpp"
#include "fuzz.hpp"

namespace alexnet_deploy::fuzz {
namespace {

using namespace std::string_view_literals;
using Offset = File::difference_type;

constexpr std::size_t signature_bytes = 8;

void flip(File& file, Random& random) {
    // Half of them near the start, where the headers are.
    const std::size_t within = random.chance(50) ? std::min<std::size_t>(file.size(), 64) : file.size();
    constexpr std::array<std::size_t, 4> counts{1, 2, 5, 20};
    for (std::size_t left = counts[random.below(counts.size())]; left > 0; --left) {
        file[random.below(within)] ^= static_cast<std::uint8_t>(1U << random.below(8));
    }
}

void write_number(File& file, Random& random) {
    const std::size_t width = std::size_t{1} << random.below(3);
    const std::uint64_t largest = (std::uint64_t{1} << (8 * width)) - 1;
    const std::array<std::uint64_t, 9> edges{0,           1, 2, 7, largest / 2, largest / 2 + 1, largest - 1, largest,
                                             file.size()};
    const std::uint64_t value = edges[random.below(edges.size())];
    const std::size_t place = random.below(random.chance(50) ? std::min<std::size_t>(file.size(), 64) : file.size());
    const bool is_big_endian = random.chance(70);
    for (std::size_t index = 0; index < width && place + index < file.size(); ++index) {
        const std::size_t shift = 8 * (is_big_endian ? width - 1 - index : index);
        file[place + index] = static_cast<std::uint8_t>(value >> shift);
    }
}

void change_range(File& file, Random& random) {
    const std::size_t start = random.below(file.size());
    const std::size_t length = 1 + random.below(std::min<std::size_t>(file.size() - start, 400));
    const auto first = file.begin() + static_cast<Offset>(start), last = first + static_cast<Offset>(length);
    if (random.chance(50)) {
        file.erase(first, last);
    } else {
        const File piece(first, last);
        file.insert(file.begin() + static_cast<Offset>(random.below(file.size())), piece.begin(), piece.end());
    }
}

bool is_png(const File& file) { return Bytes(file).starts_with("\x89PNG\r\n\x1a\n"sv); }

std::vector<std::size_t> starts_of_pieces(const File& file) {
    std::vector<std::size_t> starts;
    const Bytes bytes(file);
    if (is_png(file)) {
        for (std::size_t place = signature_bytes; place + 12 <= file.size(); place += 12 + *bytes.u32(place)) {
            starts.push_back(place);
        }
    } else if (bytes.starts_with("\xff\xd8"sv)) {
        for (std::size_t place = 2; place + 1 < file.size(); ++place) {
            if (file[place] == 0xff && file[place + 1] >= 0xc0 && file[place + 1] < 0xff) {
                starts.push_back(place);
            }
        }
    }
    return starts;
}

}  // namespace

void change_bytes(File& file, Random& random) {
    if (file.empty()) {
        file.push_back(random.byte());
        return;
    }
    switch (random.below(6)) {
        case 0:
        case 1: return flip(file, random);
        case 2:
        case 3: return write_number(file, random);
        case 4: return change_range(file, random);
        default: file.resize(random.below(file.size() + 1));
    }
}

void change_pieces(File& file, Random& random) {
    std::vector<std::size_t> starts = starts_of_pieces(file);
    if (starts.size() < 2) {
        return;
    }
    starts.push_back(file.size());
    std::vector<File> pieces;
    for (std::size_t index = 0; index + 1 < starts.size(); ++index) {
        pieces.emplace_back(file.begin() + static_cast<Offset>(starts[index]),
                            file.begin() + static_cast<Offset>(starts[index + 1]));
    }
    file.resize(starts.front());
    const std::size_t one = random.below(pieces.size()), other = random.below(pieces.size());
    switch (random.below(3)) {
        case 0: pieces[one].clear(); break;
        case 1: std::swap(pieces[one], pieces[other]); break;
        default: {
            constexpr std::array<std::size_t, 3> times{1, 2, 50};
            const File piece = pieces[one];
            for (std::size_t left = times[random.below(times.size())]; left > 0; --left) {
                pieces[other].insert(pieces[other].end(), piece.begin(), piece.end());
            }
        }
    }
    for (const File& piece : pieces) {
        file.insert(file.end(), piece.begin(), piece.end());
    }
}

void seal_png(File& file) {
    if (!is_png(file)) {
        return;
    }
    for (std::size_t place = signature_bytes; place + 12 <= file.size();) {
        const std::size_t num_bytes = *Bytes(file).u32(place), end = place + 8 + num_bytes;
        if (num_bytes > file.size() || end + 4 > file.size()) {
            return;
        }
        const uLong digest = crc32(0, file.data() + place + 4, static_cast<uInt>(num_bytes + 4));
        for (std::size_t index = 0; index < 4; ++index) {
            file[end + index] = static_cast<std::uint8_t>(digest >> (8 * (3 - index)));
        }
        place = end + 4;
    }
}

}  // namespace alexnet_deploy::fuzz
