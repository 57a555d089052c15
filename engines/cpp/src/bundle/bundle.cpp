#include "bundle/bundle.hpp"

#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>

#include "core/digest.hpp"
#include "core/failure.hpp"
#include "core/files.hpp"
#include "core/words.hpp"

namespace alexnet_deploy {
namespace {

namespace fs = std::filesystem;

constexpr const char* manifest_file = "manifest.json";
constexpr const char* labels_file = "labels.txt";
constexpr std::uint64_t max_manifest_bytes = std::uint64_t{64} << 20;

[[noreturn]] void fail_integrity(const std::string& message) { fail(ALEXNET_DEPLOY_INTEGRITY_ERROR, message); }

/// Read a file below `root`: no link on the way and, if `num_bytes` is given, of no other size.
std::vector<std::uint8_t> read_inside(const fs::path& root, const std::string& name,
                                      std::optional<std::uint64_t> num_bytes) {
    fs::path current = root;
    for (const fs::path& part : fs::path(name)) {
        current /= part;
        std::error_code ignored;
        if (fs::is_symlink(fs::symlink_status(current, ignored))) {
            fail_integrity(current.string() +
                           ": this is a link, but all files of a bundle must be inside it; copy the bundle with "
                           "`cp -rL`, which copies files in place of links");
        }
    }
    try {
        // It may have become a link since the check above.
        const PlainFile file(current, Links::refused);
        // Before reading: the size in a damaged manifest must not be allocated.
        if (num_bytes && file.size() != *num_bytes) {
            fail_integrity(current.string() + ": " + counted(file.size(), "byte") + ", expected " +
                           with_commas(*num_bytes) + "; " + std::string(copy_again));
        }
        if (!num_bytes && file.size() > max_manifest_bytes) {
            throw FileError(EFBIG, "it has " + with_commas(file.size()) + " bytes, the limit is " +
                                       with_commas(max_manifest_bytes));
        }
        return file.read();
    } catch (const FileError& error) {
        if (error.number == ENOENT && name == manifest_file) {
            fail(ALEXNET_DEPLOY_BUNDLE_ERROR,
                 root.string() + ": not a bundle: there is no " + manifest_file +
                     "; pass a directory that `alexnet-deploy export` wrote, or copy the bundle again");
        }
        if (error.number == ENOENT) {
            fail_integrity(current.string() + ": missing, but the manifest lists it; " + std::string(copy_again));
        }
        fail_integrity(current.string() + ": cannot be read: " + error.what());
    }
}

/// Whether a directory's name is that of an unfinished bundle: .NAME.RANDOM.partial.
bool is_stage(const std::string& name) {
    constexpr std::string_view end = ".partial";
    constexpr std::size_t random_letters = 8;
    if (name.size() < end.size() + random_letters + 2 || name.front() != '.' ||
        name.compare(name.size() - end.size(), end.size(), end) != 0) {
        return false;
    }
    const std::string random = name.substr(name.size() - end.size() - random_letters, random_letters);
    return name[name.size() - end.size() - random_letters - 1] == '.' &&
           random.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
}

void refuse_other_paths(const fs::path& path) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
        const char* what = fs::exists(path, error) ? "is not a directory" : "there is no such bundle";
        fail(ALEXNET_DEPLOY_BUNDLE_ERROR, path.string() + ": " + what);
    }
    if (is_stage(fs::canonical(path, error).filename().string())) {
        fail(ALEXNET_DEPLOY_BUNDLE_ERROR,
             path.string() + ": this bundle is unfinished: its export is still running or was stopped; export again");
    }
}

}  // namespace

Bundle::Bundle(fs::path path) : path_(std::move(path)) {
    refuse_other_paths(path_);
    const std::vector<std::uint8_t> data = read_inside(path_, manifest_file, std::nullopt);
    manifest_ = read_manifest(data, path_.string());
    sha256_ = alexnet_deploy::sha256(data);
    if (manifest_.is_candidate) {
        fail(ALEXNET_DEPLOY_BUNDLE_ERROR,
             path_.string() +
                 ": not published: the parity check of its engines failed or was interrupted; export again");
    }
}

std::vector<std::uint8_t> Bundle::read(const std::string& name) const {
    const auto found = manifest_.files.find(name);
    if (found == manifest_.files.end()) {
        fail_integrity(path_.string() + ": the manifest does not list " + name);
    }
    std::vector<std::uint8_t> data = read_inside(path_, name, found->second.num_bytes);
    const std::string digest = alexnet_deploy::sha256(data);
    if (digest != found->second.sha256) {
        fail_integrity((path_ / name).string() + ": SHA-256 is " + digest.substr(0, 12) + "..., expected " +
                       found->second.sha256.substr(0, 12) + "...; " + std::string(copy_again));
    }
    return data;
}

std::vector<std::uint8_t> Bundle::read_tensor(const TensorFile& tensor) const {
    std::vector<std::uint8_t> data = read(tensor.file);
    // Divided, not multiplied: a product of large numbers overflows.
    std::uint64_t left = data.size() / (tensor.dtype == "float32" ? sizeof(float) : 1);
    bool fits = data.size() % (tensor.dtype == "float32" ? sizeof(float) : 1) == 0;
    for (const std::uint64_t length : tensor.shape) {
        fits = fits && left % length == 0;
        left /= length;
    }
    if (!fits || left != 1) {
        fail_integrity((path_ / tensor.file).string() + ": " + counted(data.size(), "byte") +
                       " do not match its shape");
    }
    return data;
}

std::vector<float> Bundle::read_floats(const TensorFile& tensor) const {
    static_assert(sizeof(float) == 4, "float is IEEE 754 binary32");
    const std::vector<std::uint8_t> data = read_tensor(tensor);
    std::vector<float> numbers(data.size() / sizeof(float));
    for (std::size_t index = 0; index < numbers.size(); ++index) {
        // Little-endian on every machine.
        const auto bits = static_cast<std::uint32_t>(*Bytes(data).number(4 * index, 4, false));
        std::memcpy(&numbers[index], &bits, sizeof bits);
    }
    return numbers;
}

std::vector<std::string> Bundle::read_labels() const {
    const std::vector<std::uint8_t> data = read(labels_file);
    std::istringstream lines(std::string(data.begin(), data.end()));
    std::vector<std::string> labels;
    for (std::string line; std::getline(lines, line);) {
        labels.push_back(line);
    }
    const std::string subject = (path_ / labels_file).string();
    if (labels.size() != manifest_.num_classes) {
        fail_integrity(subject + ": " + counted(labels.size(), "label") + " for " +
                       with_commas(manifest_.num_classes) + " classes");
    }
    std::set<std::string_view> distinct;
    for (const std::string& label : labels) {
        if (!distinct.insert(label).second) {
            fail_integrity(subject + ": duplicate label '" + label + "'");
        }
    }
    return labels;
}

void Bundle::verify() const {
    for (const auto& [name, entry] : manifest_.files) {
        static_cast<void>(read(name));
    }
}

}  // namespace alexnet_deploy
