// The parts of manifest.json that this library uses: the twin of alexnet_deploy/core/bundle/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "alexnet_deploy.h"
#include "core/bytes.hpp"

namespace alexnet_deploy {

struct FileEntry {
    std::string sha256;
    std::uint64_t num_bytes;
};

/// A file of raw numbers, little-endian, row-major.
struct TensorFile {
    std::string file;
    std::string dtype;  ///< "uint8" or "float32".
    std::vector<std::uint64_t> shape;
};

/// Image files, with the pixels and the probabilities that must come of them.
struct GoldenFiles {
    std::vector<std::string> names;
    TensorFile pixels;
    TensorFile probabilities;
};

/// Stored images and the trained network's outputs for them.
struct Golden {
    TensorFile images;
    TensorFile probabilities;
    std::optional<TensorFile> graph_probabilities;  ///< Exact outputs of an int8 graph.
    std::optional<GoldenFiles> files;
};

/// A serialised TensorRT engine in the bundle.
struct PlanRecord {
    std::string file;
    std::string backend;
    std::string version;
    std::string target;
    std::string graph_sha256;
    std::uint32_t min_batch;
    std::uint32_t opt_batch;
    std::uint32_t max_batch;
    bool is_version_compatible;
    bool is_hardware_compatible;
    bool is_proof_pending;
};

struct Manifest {
    std::string precision;
    alexnet_deploy_image_policy policy{ALEXNET_DEPLOY_SHORTER_SIDE, ALEXNET_DEPLOY_EXACT};
    std::size_t num_classes = 0;
    std::size_t num_views = 0;
    bool needs_vnni = false;  ///< Whether it is an int8 graph that OpenVINO computes wrongly on a CPU without VNNI.
    bool is_candidate = false;
    Golden golden;
    std::vector<PlanRecord> plans;
    std::map<std::string, FileEntry> files;
};

/// Read manifest.json; `subject` names the bundle in errors. Throws Failure: bundle_error for another format or version,
/// integrity_error for content that is invalid or changed since it was published.
Manifest read_manifest(Bytes data, const std::string& subject);

}  // namespace alexnet_deploy
