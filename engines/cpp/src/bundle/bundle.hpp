// The bundle on disk: every file is verified when it is read, and its verified bytes are what is used.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.hpp"

namespace alexnet_deploy {

/// What to do about a damaged bundle, as the end of an error.
inline constexpr std::string_view copy_again = "copy the bundle again, or export it again";

inline constexpr const char* graph_file = "model.onnx";

/// An open bundle.
class Bundle {
public:
    /// Throws Failure: bundle_error if there is none or its format is unknown, integrity_error if it is damaged.
    explicit Bundle(std::filesystem::path path);

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }
    [[nodiscard]] const Manifest& manifest() const { return manifest_; }

    /// Digest of manifest.json, which holds the digest of everything else.
    [[nodiscard]] const std::string& sha256() const { return sha256_; }

    /// The bytes of a file of the manifest, after its size and SHA-256 were verified. Pass these bytes to loaders, never
    /// the path: a file could be replaced after its verification. Throws Failure (integrity_error).
    [[nodiscard]] std::vector<std::uint8_t> read(const std::string& name) const;

    /// The bytes of a raw file, whose number matches its shape. Throws Failure (integrity_error).
    [[nodiscard]] std::vector<std::uint8_t> read_tensor(const TensorFile& tensor) const;

    /// The numbers of a raw file of float32. Throws Failure (integrity_error).
    [[nodiscard]] std::vector<float> read_floats(const TensorFile& tensor) const;

    /// Class names in the order of the probabilities. Throws Failure (integrity_error).
    [[nodiscard]] std::vector<std::string> read_labels() const;

    /// Read every file. Throws Failure (integrity_error) for the first that differs from the published one.
    void verify() const;

private:
    std::filesystem::path path_;
    std::string sha256_;
    Manifest manifest_;
};

}  // namespace alexnet_deploy
