// A fuzz program is a target (pictures.cpp, bundles.cpp) with libFuzzer, or with driver.cpp where there is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace alexnet_deploy::fuzz {

using File = std::vector<std::uint8_t>;

/// Random numbers that are the same with every compiler: std::uniform_int_distribution is not.
class Random {
public:
    explicit Random(std::uint64_t seed) : numbers_(seed) {}

    /// A number from 0 to `count` - 1; 0 for a count of 0.
    std::size_t below(std::size_t count) { return count == 0 ? 0 : static_cast<std::size_t>(numbers_() % count); }

    /// Whether it happens, in `percent` of the cases.
    bool chance(std::size_t percent) { return below(100) < percent; }

    std::uint8_t byte() { return static_cast<std::uint8_t>(numbers_()); }

private:
    std::mt19937_64 numbers_;
};

/// Number of runs by outcome: "ok" and the names of the errors.
inline std::map<std::string, long>& outcomes() {
    static std::map<std::string, long> counts;
    return counts;
}

/// Flip bits, write numbers at the edges of their types, cut, repeat or remove a piece.
void change_bytes(File& file, Random& random);

/// Drop, repeat or exchange chunks of a PNG or segments of a JPEG; other files are not changed.
void change_pieces(File& file, Random& random);

/// Correct the checksums of a PNG, as far as its chunks can be followed; other files are not changed.
void seal_png(File& file);

}  // namespace alexnet_deploy::fuzz

// What libFuzzer calls. The target aborts on what must not happen.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed);
