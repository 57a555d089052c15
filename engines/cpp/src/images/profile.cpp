#include "images/profile.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/failure.hpp"

namespace alexnet_deploy {
namespace {

using Matrix = std::array<std::array<double, 3>, 3>;
using Curve = std::array<double, 256>;

constexpr int one = 65535;
constexpr std::int64_t scale = 1 << 14;  // Denominator of the matrix in fixed point.
constexpr int nearness = 2;  // A profile this close to sRGB, in levels of 255, counts as sRGB.
constexpr std::size_t max_profile_bytes = 1 << 16;  // Larger profiles contain tables.

// Red, green and blue as columns of XYZ, adapted to D50 by Bradford's method as ICC requires.
constexpr Matrix srgb{{{0.43606567, 0.38514709, 0.14306641},
                       {0.22248840, 0.71687317, 0.06060791},
                       {0.01391602, 0.09707642, 0.71409607}}};
constexpr Matrix p3{{{0.51511, 0.29195, 0.15710}, {0.24118, 0.69224, 0.06657}, {-0.00105, 0.04189, 0.78407}}};
constexpr Matrix bt2020{{{0.67346, 0.16565, 0.12505}, {0.27904, 0.67534, 0.04561}, {-0.00193, 0.02998, 0.79686}}};

/// A profile that cannot be read; it does not make valid pixels unusable.
struct BrokenProfile {};

template <typename Value>
Value needed(const std::optional<Value>& value) {
    if (!value) {
        throw BrokenProfile{};
    }
    return *value;
}

Matrix inverse(const Matrix& m) {
    const auto minor = [&m](std::size_t r, std::size_t c) {
        const std::size_t r1 = (r + 1) % 3, r2 = (r + 2) % 3, c1 = (c + 1) % 3, c2 = (c + 2) % 3;
        return m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1];
    };
    const double determinant = m[0][0] * minor(0, 0) + m[0][1] * minor(0, 1) + m[0][2] * minor(0, 2);
    Matrix result{};
    for (std::size_t r = 0; r < 3; ++r) {
        for (std::size_t c = 0; c < 3; ++c) {
            result[c][r] = minor(r, c) / determinant;
        }
    }
    return result;
}

/// The sRGB value for each value of linear light.
const std::vector<std::uint8_t>& encoding() {
    static const std::vector<std::uint8_t> table = [] {
        std::vector<std::uint8_t> values(one + 1);
        for (int index = 0; index <= one; ++index) {
            const double light = static_cast<double>(index) / one;
            const double value = light <= 0.0031308 ? 12.92 * light : 1.055 * std::pow(light, 1 / 2.4) - 0.055;
            values[static_cast<std::size_t>(index)] = static_cast<std::uint8_t>(std::nearbyint(value * 255));
        }
        return values;
    }();
    return table;
}

ToSrgb conversion(const std::array<Curve, 3>& curves, const Matrix& colorants) {
    static const Matrix from_xyz = inverse(srgb);
    ToSrgb result{};
    for (std::size_t channel = 0; channel < 3; ++channel) {
        for (std::size_t value = 0; value < 256; ++value) {
            const double light = std::clamp(curves[channel][value], 0.0, 1.0);
            result.curves[channel][value] = static_cast<std::int64_t>(std::nearbyint(light * one));
        }
        for (std::size_t of = 0; of < 3; ++of) {
            double sum = 0.0;
            for (std::size_t inner = 0; inner < 3; ++inner) {
                sum += from_xyz[channel][inner] * colorants[inner][of];
            }
            result.matrix[channel][of] = static_cast<std::int64_t>(std::nearbyint(sum * static_cast<double>(scale)));
        }
    }
    return result;
}

std::vector<double> fixed_numbers(Bytes tag, std::size_t offset, std::size_t count) {
    std::vector<double> numbers;
    for (std::size_t index = 0; index < count; ++index) {
        numbers.push_back(static_cast<std::int32_t>(needed(tag.u32(offset + 4 * index))) / 65536.0);
    }
    return numbers;
}

/// A curve of points (ICC.1:2022, 10.6).
Curve curve_of_points(Bytes tag) {
    const std::uint32_t count = needed(tag.u32(8));
    Curve light{};
    if (count == 0) {
        for (std::size_t value = 0; value < 256; ++value) {
            light[value] = static_cast<double>(value) / 255;
        }
        return light;
    }
    if (tag.size() < 12 || (tag.size() - 12) / 2 < count) {
        throw BrokenProfile{};
    }
    const auto point = [&tag](std::size_t index) { return static_cast<double>(*tag.u16(12 + 2 * index)); };
    for (std::size_t value = 0; value < 256; ++value) {
        const double place = static_cast<double>(value) / 255;
        if (count == 1) {
            light[value] = std::pow(place, point(0) / 256);
            continue;
        }
        // As np.interp over np.linspace(0, 1, count).
        const double step = 1.0 / (count - 1);
        auto left = std::min<std::size_t>(static_cast<std::size_t>(place * (count - 1)), count - 2);
        while (left > 0 && static_cast<double>(left) * step > place) {
            --left;
        }
        while (left < count - 2 && static_cast<double>(left + 1) * step <= place) {
            ++left;
        }
        const double start = static_cast<double>(left) * step;
        const double end = left + 1 == count - 1 ? 1.0 : static_cast<double>(left + 1) * step;
        const double low = point(left) / one, high = point(left + 1) / one;
        light[value] = place >= end ? high : (high - low) / (end - start) * (place - start) + low;
    }
    return light;
}

/// A parametric curve (ICC.1:2022, 10.18).
Curve curve_of_parameters(Bytes tag) {
    constexpr std::array<std::size_t, 5> counts{1, 3, 4, 5, 7};
    const std::uint16_t kind = needed(tag.u16(8));
    if (kind >= counts.size()) {
        throw BrokenProfile{};
    }
    std::vector<double> given = fixed_numbers(tag, 12, counts[kind]);
    constexpr std::array<double, 6> defaults{1.0, 0.0, 0.0, -1.0, 0.0, 0.0};
    given.insert(given.end(), defaults.begin() + static_cast<std::ptrdiff_t>(given.size()) - 1, defaults.end());
    const double g = given[0], a = given[1], b = given[2];
    double c = given[3], d = given[4], e = given[5], f = given[6];
    if ((kind == 1 || kind == 2) && a == 0.0) {
        throw BrokenProfile{};
    }
    if (kind == 1) {
        d = -b / a;
    } else if (kind == 2) {
        d = -b / a;
        e = f = c;
        c = 0.0;
    }
    Curve light{};
    for (std::size_t index = 0; index < 256; ++index) {
        const double value = static_cast<double>(index) / 255;
        light[index] = value >= d ? std::pow(std::max(a * value + b, 0.0), g) + e : c * value + f;
    }
    return light;
}

Curve curve_of(Bytes tag) {
    if (tag.starts_with("curv")) {
        return curve_of_points(tag);
    }
    if (tag.starts_with("para")) {
        return curve_of_parameters(tag);
    }
    throw BrokenProfile{};
}

Bytes tag_of(Bytes profile, std::string_view name) {
    const std::uint32_t count = std::min(needed(profile.u32(128)), 100U);
    std::optional<Bytes> found;
    for (std::size_t number = 0; number < count; ++number) {
        const std::size_t entry = 132 + 12 * number;
        const std::size_t offset = needed(profile.u32(entry + 4)), size = needed(profile.u32(entry + 8));
        if (profile.has(entry, name)) {
            found = profile.part(offset, size);
        }
    }
    return needed(found);
}

bool is_near_srgb(const ToSrgb& conversion) {
    for (int red = 0; red < 256; red += 15) {
        for (int green = 0; green < 256; green += 15) {
            for (int blue = 0; blue < 256; blue += 15) {
                const std::array<int, 3> colour{red, green, blue};
                std::array<std::uint8_t, 3> pixel{};
                std::copy(colour.begin(), colour.end(), pixel.begin());
                conversion.apply(pixel.data(), 1);
                for (std::size_t channel = 0; channel < 3; ++channel) {
                    if (std::abs(pixel[channel] - colour[channel]) > nearness) {
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

ToSrgb parsed(Bytes profile) {
    std::array<Curve, 3> curves{};
    Matrix colorants{};
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const std::string letter(1, "rgb"[channel]);
        curves[channel] = curve_of(tag_of(profile, letter + "TRC"));
        const std::vector<double> column = fixed_numbers(tag_of(profile, letter + "XYZ"), 8, 3);
        for (std::size_t row = 0; row < 3; ++row) {
            if (!(std::abs(column[row]) < 4)) {
                throw BrokenProfile{};
            }
            colorants[row][channel] = column[row];
        }
        if (!std::all_of(curves[channel].begin(), curves[channel].end(), [](double v) { return std::isfinite(v); })) {
            throw BrokenProfile{};
        }
    }
    return conversion(curves, colorants);
}

}  // namespace

void ToSrgb::apply(std::uint8_t* pixels, std::size_t num_pixels) const {
    const std::vector<std::uint8_t>& encoded = encoding();
    for (std::size_t index = 0; index < num_pixels; ++index, pixels += 3) {
        const std::array<std::int64_t, 3> light{curves[0][pixels[0]], curves[1][pixels[1]], curves[2][pixels[2]]};
        for (std::size_t to = 0; to < 3; ++to) {
            const std::int64_t mixed = matrix[to][0] * light[0] + matrix[to][1] * light[1] + matrix[to][2] * light[2];
            // A shift rounds down, also below zero.
            const std::int64_t linear = std::clamp<std::int64_t>((mixed + scale / 2) >> 14, 0, one);
            pixels[to] = encoded[static_cast<std::size_t>(linear)];
        }
    }
}

std::optional<ToSrgb> conversion_of_profile(Bytes profile) {
    if (profile.size() > max_profile_bytes || !profile.has(16, "RGB XYZ ")) {
        return std::nullopt;
    }
    try {
        const ToSrgb found = parsed(profile);
        return is_near_srgb(found) ? std::nullopt : std::optional(found);
    } catch (const BrokenProfile&) {
        return std::nullopt;
    }
}

std::optional<ToSrgb> conversion_of_codes(ColourCodes codes) {
    if (codes.transfer == 16 || codes.transfer == 18) {
        fail(ALEXNET_DEPLOY_UNSUPPORTED_FORMAT,
             std::string("HDR (") + (codes.transfer == 16 ? "PQ" : "HLG") +
                 ") is not supported: it has no unique 8-bit rendering; convert it to sRGB");
    }
    if (codes.primaries != 9 && codes.primaries != 12) {
        return std::nullopt;
    }
    Curve light{};
    for (std::size_t index = 0; index < 256; ++index) {
        const double value = static_cast<double>(index) / 255;
        light[index] = value <= 0.04045 ? value / 12.92 : std::pow((value + 0.055) / 1.055, 2.4);
    }
    return conversion({light, light, light}, codes.primaries == 9 ? bt2020 : p3);
}

}  // namespace alexnet_deploy
