#include "engines/registry.hpp"

#include <algorithm>
#include <array>

#include "core/failure.hpp"
#include "engines/backends.hpp"
#include "engines/processor.hpp"

namespace alexnet_deploy {
namespace {

using OpenGraph = Opened (*)(const GraphSource&, const Request&);

#ifdef ALEXNET_DEPLOY_OPENVINO
constexpr OpenGraph openvino = open_openvino;
#else
constexpr OpenGraph openvino = nullptr;
#endif
#ifdef ALEXNET_DEPLOY_ONNXRUNTIME
constexpr OpenGraph onnxruntime = open_onnxruntime;
#else
constexpr OpenGraph onnxruntime = nullptr;
#endif
#ifdef ALEXNET_DEPLOY_TENSORRT
constexpr std::string_view built_in_plans = ALEXNET_DEPLOY_TENSORRT;
#else
constexpr std::string_view built_in_plans = "";
#endif

struct Backend {
    std::string_view name;
    OpenGraph open_graph;  ///< Null for a backend that runs plans, or that was not built in.
    bool runs_plans = false;
    bool runs_on_cuda = false;
    bool saturates = false;  ///< Whether int8 graphs with 8-bit weights saturate on a CPU without VNNI.

    [[nodiscard]] bool is_built_in() const { return open_graph != nullptr || (runs_plans && name == built_in_plans); }
};

// The fastest on a CPU first.
constexpr std::array<Backend, 4> backends{{
    {"openvino", openvino, false, false, true},
    {"onnxruntime", onnxruntime, false, true},
    {"tensorrt", nullptr, true, true},
    {"tensorrt-rtx", nullptr, true, true},
}};

[[noreturn]] void fail_backend(const std::string& message) { fail(ALEXNET_DEPLOY_BACKEND_ERROR, message); }

bool is_cuda(const std::string& device) {
    if (device == "auto" || device == "cpu") {
        return false;
    }
    const bool has_number = device.size() > 5 && device.size() <= 9 && device.rfind("cuda:", 0) == 0 &&
                            device.find_first_not_of("0123456789", 5) == std::string::npos;
    if (device != "cuda" && !has_number) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, "'" + device + "' is not a device; choose from auto, cpu, cuda and cuda:N");
    }
    return true;
}

const Backend& named(const std::string& name) {
    const auto found =
        std::find_if(backends.begin(), backends.end(), [&](const Backend& backend) { return backend.name == name; });
    if (found == backends.end()) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR,
             "'" + name + "' is not a backend; choose from auto, openvino, onnxruntime, tensorrt, tensorrt-rtx");
    }
    return *found;
}

void check_request(const Request& request) {
    const bool on_cuda = is_cuda(request.device);
    if (request.num_threads < 0) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR,
             "number of threads must be 1 or more, got " + std::to_string(request.num_threads));
    }
    if (request.backend == "auto") {
        return;
    }
    const Backend& backend = named(request.backend);
    if (on_cuda && !backend.runs_on_cuda) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR,
             request.backend + " does not run on " + request.device + "; use onnxruntime or a plan");
    }
    if (request.device == "cpu" && backend.runs_plans) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, request.backend + " does not run on the cpu; use openvino or onnxruntime");
    }
    if (backend.runs_plans && request.num_threads > 0) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, request.backend + " runs on a GPU, where CPU threads cannot be limited; leave "
                                                           "num_threads at 0");
    }
}

/// The first built-in backend that runs the graph on the device and computes it right.
const Backend& fastest(const Bundle& bundle, bool on_cuda) {
    const bool is_safe = !bundle.manifest().needs_vnni || has_vnni();
    bool was_unsafe = false;
    for (const Backend& backend : backends) {
        if (backend.open_graph == nullptr || (on_cuda && !backend.runs_on_cuda)) {
            continue;
        }
        if (is_safe || on_cuda || !backend.saturates) {
            return backend;
        }
        was_unsafe = true;
    }
    if (was_unsafe) {
        fail_backend(bundle.path().string() + ": has 8-bit weights, which openvino computes wrongly on a CPU without VNNI; "
                                              "export the bundle again, or build this library with onnxruntime");
    }
    fail_backend(std::string("this library was built without a backend that runs on ") +
                 (on_cuda ? "CUDA" : "the CPU") + "; build it with ALEXNET_DEPLOY_WITH_ONNXRUNTIME" +
                 (on_cuda ? "" : " or ALEXNET_DEPLOY_WITH_OPENVINO"));
}

bool has_plan(const Bundle& bundle) {
    const auto& plans = bundle.manifest().plans;
    return std::any_of(plans.begin(), plans.end(),
                       [](const PlanRecord& plan) { return plan.backend == built_in_plans; });
}

}  // namespace

const char* built_in_backends() {
    static const std::string names = [] {
        std::string found;
        for (const Backend& backend : backends) {
            if (backend.is_built_in()) {
                found += (found.empty() ? "" : ",") + std::string(backend.name);
            }
        }
        return found;
    }();
    return names.c_str();
}

Opened open_backend(const Bundle& bundle, const Request& request, std::string& backend) {
    check_request(request);
    const bool on_cuda = is_cuda(request.device);
    Request chosen = request;
    if (request.backend == "auto") {
        chosen.backend = on_cuda && has_plan(bundle) ? built_in_plans : fastest(bundle, on_cuda).name;
    }
    const Backend& found = named(chosen.backend);
    if (!found.is_built_in()) {
        fail_backend("this library was built without " + chosen.backend);
    }
    backend = chosen.backend;
#ifdef ALEXNET_DEPLOY_TENSORRT
    if (found.runs_plans) {
        return open_plan(bundle, chosen);
    }
#endif
    const std::vector<std::uint8_t> graph = bundle.read(graph_file);
    const Manifest& manifest = bundle.manifest();
    return found.open_graph({bundle.path().string(), graph, manifest.precision, manifest.num_classes,
                             manifest.num_views, manifest.needs_vnni},
                            chosen);
}

}  // namespace alexnet_deploy
