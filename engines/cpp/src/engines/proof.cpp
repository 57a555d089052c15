#include "engines/proof.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "core/failure.hpp"
#include "images/decode.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {
namespace {

constexpr double log_floor = 1e-30;
constexpr double tie = 1e-5, int8_tie = 0.02;
constexpr std::size_t fewest_that_lose_one = 8;

struct Tolerance {
    double probability;
    double log_probability;
    double top1_agreement;
};

Tolerance tolerance_of(const std::string& precision) {
    if (precision == "int8") {
        return {0.25, 4.0, 0.99};
    }
    return precision == "fp16" ? Tolerance{5e-3, 5e-2, 0.998} : Tolerance{1e-5, 1e-4, 1.0};
}

/// The tolerance of an engine against its own int8 graph: rounding errors of different views are independent.
Tolerance int8_graph_tolerance(std::size_t num_views) {
    const double wider = std::sqrt(10.0 / static_cast<double>(num_views));
    return {0.03 * wider, 0.3 * wider, 0.99};
}

struct Differences {
    double max_error = 0.0;
    double max_log_error = 0.0;
    double top1_agreement = 0.0;
};

/// The larger one; NaN if either is, so that it fails every gate.
double larger(double most, double value) { return value <= most ? most : value; }

Differences compare(const std::vector<float>& expected, const std::vector<float>& actual, std::size_t num_classes,
                    double tied) {
    Differences found;
    const std::size_t num_images = expected.size() / num_classes;
    std::size_t num_same = 0;
    for (std::size_t image = 0; image < num_images; ++image) {
        const float* wanted = expected.data() + image * num_classes;
        const float* given = actual.data() + image * num_classes;
        for (std::size_t index = 0; index < num_classes; ++index) {
            const double reference = static_cast<double>(wanted[index]), value = static_cast<double>(given[index]);
            const auto log = [](double number) { return std::log(number < log_floor ? log_floor : number); };
            found.max_error = larger(found.max_error, std::abs(value - reference));
            found.max_log_error = larger(found.max_log_error, std::abs(log(value) - log(reference)));
        }
        const auto predicted = std::max_element(given, given + num_classes) - given;
        const double best = static_cast<double>(*std::max_element(wanted, wanted + num_classes));
        num_same += static_cast<double>(wanted[predicted]) >= best - tied;
    }
    found.top1_agreement = static_cast<double>(num_same) / static_cast<double>(num_images);
    return found;
}

/// With eight images or more, one may differ where the tolerance allows any to.
double least_agreement(const Tolerance& tolerance, std::size_t num_images) {
    const bool may_lose_one = tolerance.top1_agreement < 1.0 && num_images >= fewest_that_lose_one;
    // As one division, like the agreement itself: 1 - 1/19 is above 18/19 in double.
    const double all_but_one = static_cast<double>(num_images - 1) / static_cast<double>(num_images);
    return may_lose_one ? std::min(tolerance.top1_agreement, all_but_one) : 1.0;
}

std::string short_number(double number) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.3g", number);
    return text.data();
}

/// What is beyond the tolerance, each with a separator before it.
std::string shortfalls(const Differences& found, const Tolerance& tolerance, std::size_t num_images) {
    std::string text;
    if (!(found.max_error <= tolerance.probability)) {
        text += "; a probability is off by " + short_number(found.max_error) + ", over " +
                short_number(tolerance.probability);
    }
    if (!(found.max_log_error <= tolerance.log_probability)) {
        text += "; a log-probability is off by " + short_number(found.max_log_error) + ", over " +
                short_number(tolerance.log_probability);
    }
    if (!(found.top1_agreement >= least_agreement(tolerance, num_images))) {
        text += "; top-1 agreement is " + short_number(100 * found.top1_agreement) + " %, under " +
                short_number(100 * tolerance.top1_agreement) + " %";
    }
    return text;
}

std::vector<float> run_all(Engine& engine, const std::vector<std::uint8_t>& squares) {
    const std::size_t num_images = squares.size() / square_bytes;
    std::vector<float> probabilities(num_images * engine.labels().size());
    engine.run(squares.data(), num_images, probabilities.data());
    return probabilities;
}

/// Compares answers with the stored ones and keeps the account.
class Account {
public:
    Account(Engine& engine, alexnet_deploy_proof& proof) : engine_(engine), proof_(proof) {}

    void compare_with(const TensorFile& expected, const std::vector<float>& actual, const Tolerance& tolerance,
                      double tied) {
        const std::size_t num_classes = engine_.labels().size();
        const Differences found = compare(engine_.bundle().read_floats(expected), actual, num_classes, tied);
        proof_.max_error = larger(proof_.max_error, found.max_error);
        proof_.max_log_error = larger(proof_.max_log_error, found.max_log_error);
        failures_ += shortfalls(found, tolerance, actual.size() / num_classes);
    }

    void add_failure(const std::string& failure) { failures_ += "; " + failure; }

    void refuse_failures() const {
        if (!failures_.empty()) {
            fail(ALEXNET_DEPLOY_PARITY_ERROR,
                 engine_.bundle().path().string() + ": on " + engine_.device() + " " + engine_.backend() +
                     " disagrees with the trained network on the golden images: " + failures_.substr(2));
        }
    }

private:
    Engine& engine_;
    alexnet_deploy_proof& proof_;
    std::string failures_;
};

/// Decode the golden files and compare their pixels; returns what must come of all.
std::vector<std::uint8_t> prove_decoder(const Bundle& bundle, const GoldenFiles& files, Account& account,
                                        alexnet_deploy_proof& proof) {
    std::vector<std::uint8_t> expected = bundle.read_tensor(files.pixels);
    std::vector<std::uint8_t> actual(square_bytes);
    for (std::size_t index = 0; index < files.names.size(); ++index) {
        try {
            decode_image(bundle.read(files.names[index]), bundle.manifest().policy, Limits{}, actual.data());
            if (std::equal(actual.begin(), actual.end(), expected.data() + index * square_bytes)) {
                ++proof.num_files_exact;
            } else {
                account.add_failure(files.names[index] + ": its pixels differ");
            }
        } catch (const Failure& failure) {
            if (failure.status() >= ALEXNET_DEPLOY_USAGE_ERROR) {
                throw;
            }
            account.add_failure(files.names[index] + ": cannot be decoded: " + failure.what());
        }
    }
    return expected;
}

}  // namespace

void prove(Engine& engine, alexnet_deploy_proof& proof) {
    const Bundle& bundle = engine.bundle();
    const Manifest& manifest = bundle.manifest();
    const Golden& golden = manifest.golden;
    const bool is_int8 = manifest.precision == "int8";
    const Tolerance usual = tolerance_of(manifest.precision);
    const Tolerance own = is_int8 ? int8_graph_tolerance(manifest.num_views) : usual;
    proof = {};
    proof.num_images = static_cast<std::int32_t>(golden.images.shape.front());
    Account account(engine, proof);
    const std::vector<float> answers = run_all(engine, bundle.read_tensor(golden.images));
    account.compare_with(golden.probabilities, answers, usual, is_int8 ? int8_tie : tie);
    if (golden.graph_probabilities && is_int8) {
        account.compare_with(*golden.graph_probabilities, answers, own, tie);
    }
    if (golden.files) {
        proof.num_files = static_cast<std::int32_t>(golden.files->names.size());
        const std::vector<std::uint8_t> squares = prove_decoder(bundle, *golden.files, account, proof);
        account.compare_with(golden.files->probabilities, run_all(engine, squares), own, tie);
    }
    account.refuse_failures();
}

}  // namespace alexnet_deploy
