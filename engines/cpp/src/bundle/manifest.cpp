#include "bundle/manifest.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bundle/bundle.hpp"
#include "bundle/seal.hpp"
#include "core/failure.hpp"

namespace alexnet_deploy {
namespace {

using nlohmann::json;

constexpr std::string_view format_name = "alexnet-deploy bundle";
constexpr int oldest_version = 2, newest_version = 3, features_version = 4;
constexpr std::uint64_t max_file_bytes = std::uint64_t{4} << 30;
constexpr std::size_t max_dimensions = 8;
constexpr int max_weight_level = 127, safe_weight_level = 63;

/// Content that no bundle has; the message says what is wrong.
struct Invalid : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void require(bool is_valid, const std::string& problem) {
    if (!is_valid) {
        throw Invalid(problem);
    }
}

bool is_sha256(const std::string& text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// Plain names and forward slashes only, so that every path means the same on all systems and stays inside.
bool is_safe_path(const std::string& path) {
    bool starts_name = true;
    for (const char letter : path) {
        const bool is_word = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                             (letter >= '0' && letter <= '9') || letter == '_';
        if (letter == '/' ? starts_name : !(is_word || (!starts_name && (letter == '.' || letter == '-')))) {
            return false;
        }
        starts_name = letter == '/';
    }
    return !starts_name;
}

void refuse_other_versions(const json& record, const std::string& subject) {
    const std::string name = record.value("format", std::string(format_name));
    require(record.at("format_version").is_number_integer(), "format_version is not an integer");
    const auto version = record.at("format_version").get<std::int64_t>();
    if (name == format_name && version >= oldest_version && version <= newest_version) {
        return;
    }
    if (name == format_name && version == features_version) {
        fail(ALEXNET_DEPLOY_BUNDLE_ERROR,
             subject + ": returns features of " + record.at("output_layer").get<std::string>() +
                 ", but the C++ library needs probabilities; export without --output-layer");
    }
    const bool is_newer = name == format_name && version > features_version;
    fail(ALEXNET_DEPLOY_BUNDLE_ERROR,
         subject + ": " + name + " version " + std::to_string(version) + " is " +
             (is_newer ? "newer than supported" : "not supported") + "; this program reads " +
             std::string(format_name) + " version " + std::to_string(oldest_version) + ", " +
             std::to_string(newest_version) + " and " + std::to_string(features_version) + "; use the alexnet-deploy that wrote it, or export again");
}

TensorFile tensor_of(const json& record) {
    TensorFile tensor{record.at("file"), record.at("dtype"), record.at("shape")};
    require(tensor.dtype == "uint8" || tensor.dtype == "float32", "invalid dtype " + tensor.dtype);
    require(!tensor.shape.empty() && tensor.shape.size() <= max_dimensions, "a tensor has too many dimensions");
    require(std::all_of(tensor.shape.begin(), tensor.shape.end(),
                        [](std::uint64_t length) { return length >= 1 && length <= max_file_bytes; }),
            "a tensor has an invalid shape");
    return tensor;
}

/// Check the shapes of images and of the probabilities for them.
void check_shapes(const TensorFile& images, const TensorFile& probabilities, std::size_t num_classes) {
    const std::uint64_t count = images.shape.front();
    const bool is_valid = images.dtype == "uint8" && probabilities.dtype == "float32" &&
                          images.shape == std::vector<std::uint64_t>{count, 256, 256, 3} &&
                          probabilities.shape == std::vector<std::uint64_t>{count, num_classes};
    require(is_valid, "the golden vectors have invalid shapes");
}

Golden golden_of(const json& record, std::size_t num_classes) {
    Golden golden{tensor_of(record.at("images")), tensor_of(record.at("probabilities")), std::nullopt, std::nullopt};
    check_shapes(golden.images, golden.probabilities, num_classes);
    if (record.contains("graph") && !record.at("graph").is_null()) {
        golden.graph_probabilities = tensor_of(record.at("graph").at("probabilities"));
        check_shapes(golden.images, *golden.graph_probabilities, num_classes);
    }
    if (record.contains("files")) {
        const json& files = record.at("files");
        golden.files = GoldenFiles{files.at("names"), tensor_of(files.at("pixels")), tensor_of(files.at("probabilities"))};
        check_shapes(golden.files->pixels, golden.files->probabilities, num_classes);
        require(golden.files->names.size() == golden.files->pixels.shape.front(), "a golden file has no pixels");
    }
    return golden;
}

PlanRecord plan_of(const json& record) {
    const json& profile = record.at("profile");
    const json& options = record.at("options");
    PlanRecord plan{record.at("file"),
                    record.at("backend"),
                    record.at("version"),
                    record.at("target"),
                    record.at("graph_sha256"),
                    profile.at("min_batch"),
                    profile.at("opt_batch"),
                    profile.at("max_batch"),
                    options.at("is_version_compatible"),
                    options.at("is_hardware_compatible"),
                    record.at("proof") == "pending"};
    require(1 <= plan.min_batch && plan.min_batch <= plan.opt_batch && plan.opt_batch <= plan.max_batch,
            "batch sizes must be 1 <= min <= opt <= max");
    return plan;
}

std::map<std::string, FileEntry> files_of(const json& record) {
    std::map<std::string, FileEntry> files;
    for (const auto& [name, entry] : record.items()) {
        require(is_safe_path(name), "invalid file path '" + name + "': it must be a plain path inside the bundle");
        const FileEntry found{entry.at("sha256"), entry.at("bytes").get<std::uint64_t>()};
        require(is_sha256(found.sha256) && found.num_bytes <= max_file_bytes, name + ": invalid digest or size");
        files.emplace(name, found);
    }
    return files;
}

/// Check the contract that all engines share: uint8 images in, float32 probabilities out. Returns the number of classes.
std::size_t num_classes_of(const json& contract) {
    const json& input = contract.at("input");
    const json& output = contract.at("output");
    require(input.at("name") == "images" && input.at("dtype") == "uint8" &&
                input.at("shape") == json::array({"N", 256, 256, 3}) && output.at("name") == "probabilities" &&
                output.at("dtype") == "float32" && output.at("shape").size() == 2 && output.at("shape").at(0) == "N",
            "the contract is not the expected one");
    const auto num_classes = output.at("shape").at(1).get<std::size_t>();
    require(num_classes >= 1 && num_classes <= (std::size_t{1} << 24), "the contract has an invalid number of classes");
    return num_classes;
}

Manifest manifest_of(const json& record) {
    Manifest manifest;
    manifest.precision = record.at("precision");
    require(manifest.precision == "fp32" || manifest.precision == "fp16" || manifest.precision == "int8",
            "invalid precision " + manifest.precision);
    const json& preprocessing = record.at("preprocessing");
    const std::string resize = preprocessing.at("resize");
    require(resize == "shorter-side" || resize == "warp", "invalid resize policy " + resize);
    manifest.policy.resize = resize == "warp" ? ALEXNET_DEPLOY_WARP : ALEXNET_DEPLOY_SHORTER_SIDE;
    const std::string decode = preprocessing.value("decode", "exact");
    require(decode == "exact" || decode == "scaled", "invalid decode policy " + decode);
    manifest.policy.decoding = decode == "scaled" ? ALEXNET_DEPLOY_SCALED : ALEXNET_DEPLOY_EXACT;
    manifest.num_classes = num_classes_of(record.at("contract"));
    manifest.num_views = record.at("views").at("crops").size();
    require(manifest.num_views >= 1, "it has no views");
    if (record.contains("quantization") && !record.at("quantization").is_null()) {
        const int level = record.at("quantization").value("weight_level", max_weight_level);
        manifest.needs_vnni = level > safe_weight_level;
    }
    manifest.is_candidate = record.contains("is_candidate");
    manifest.golden = golden_of(record.at("golden"), manifest.num_classes);
    for (const json& plan : record.at("plans")) {
        manifest.plans.push_back(plan_of(plan));
    }
    manifest.files = files_of(record.at("files"));
    return manifest;
}

}  // namespace

Manifest read_manifest(Bytes data, const std::string& subject) {
    try {
        const json record = json::parse(data.begin(), data.end());
        refuse_other_versions(record, subject);
        const std::string stated = record.at("sha256");
        Manifest manifest = manifest_of(record);
        if (stated != digest_of_record(data.text())) {
            fail(ALEXNET_DEPLOY_INTEGRITY_ERROR, subject + ": manifest.json has changed since it was published: the "
                                                           "digest does not match; " + std::string(copy_again));
        }
        return manifest;
    } catch (const json::exception& error) {
        fail(ALEXNET_DEPLOY_INTEGRITY_ERROR,
             subject + ": manifest.json cannot be read: " + error.what() + "; " + std::string(copy_again));
    } catch (const Invalid& error) {
        fail(ALEXNET_DEPLOY_INTEGRITY_ERROR,
             subject + ": manifest.json cannot be read: " + error.what() + "; " + std::string(copy_again));
    }
}

}  // namespace alexnet_deploy
