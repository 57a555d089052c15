// Plans on an NVIDIA GPU with TensorRT or TensorRT-RTX: the twin of engines/tensorrt/plan.py, without CUDA graphs.
//
// A run is one upload, the network and one download on one stream, through buffers allocated once for the largest batch.
#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>

#include "core/failure.hpp"
#include "engines/backends.hpp"
#include "engines/cuda_memory.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {
namespace {

[[noreturn]] void fail_plan(const std::string& message) { fail(ALEXNET_DEPLOY_BACKEND_ERROR, message); }

/// Collects the library's errors: its functions return null and log why.
class Log final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        try {
            const std::lock_guard lock(mutex_);
            if (severity <= Severity::kERROR && errors_.find(message) == std::string::npos) {
                errors_ += (errors_.empty() ? "" : "; ") + in_one_line(message);
            }
        } catch (...) {
            // The message is lost, the failure itself is reported.
        }
    }

    [[nodiscard]] std::string why() const {
        const std::lock_guard lock(mutex_);
        return errors_.empty() ? "the library logged no error" : errors_;
    }

private:
    mutable std::mutex mutex_;
    std::string errors_;
};

struct Gpu {
    int number;
    int major, minor;
    std::string name;

    [[nodiscard]] std::string target() const {
        return "sm_" + std::to_string(major) + std::to_string(minor) + " " + name;
    }
};

Gpu find_gpu(const std::string& device) {
    const std::size_t colon = device.find(':');
    Gpu gpu{colon == std::string::npos ? 0 : std::stoi(device.substr(colon + 1)), 0, 0, ""};
    int count = 0;
    check_cuda(cudaGetDeviceCount(&count), "find a GPU");
    if (gpu.number >= count) {
        fail_plan("there is no GPU " + std::to_string(gpu.number) + ": CUDA finds " + std::to_string(count));
    }
    check_cuda(cudaSetDevice(gpu.number), "use the GPU");
    check_cuda(cudaDeviceGetAttribute(&gpu.major, cudaDevAttrComputeCapabilityMajor, gpu.number), "ask the GPU");
    check_cuda(cudaDeviceGetAttribute(&gpu.minor, cudaDevAttrComputeCapabilityMinor, gpu.number), "ask the GPU");
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, gpu.number), "ask the GPU for its name");
    gpu.name = properties.name;
    return gpu;
}

/// What keeps a plan from running on this GPU; empty if nothing does.
std::string target_problem(const PlanRecord& plan, const Gpu& gpu) {
    constexpr int ampere = 8;
    if (plan.target == "aot" || plan.is_hardware_compatible) {
        return gpu.major >= ampere ? "" : "is for GPUs of Ampere (sm_80) and later, but this GPU is " + gpu.target();
    }
    return gpu.target() == plan.target ? "" : "was built for " + plan.target + ", but this GPU is " + gpu.target();
}

/// The plan that fits the GPU; if none fits, the first.
const PlanRecord& choose(const Bundle& bundle, const std::string& backend, const Gpu& gpu) {
    const PlanRecord* first = nullptr;
    for (const PlanRecord& plan : bundle.manifest().plans) {
        if (plan.backend == backend && target_problem(plan, gpu).empty()) {
            return plan;
        }
        first = first == nullptr && plan.backend == backend ? &plan : first;
    }
    if (first == nullptr) {
        fail_plan(bundle.path().string() + ": contains no plan for " + backend + "; build one with `alexnet-deploy build " +
                  bundle.path().string() + " --plan " + backend + "`");
    }
    return *first;
}

/// The library's version as 10.13.0: it packs three numbers into one.
std::string library_version() {
    const std::int32_t packed = getInferLibVersion();
    return std::to_string(packed / 10'000) + "." + std::to_string(packed / 100 % 100) + "." +
           std::to_string(packed % 100);
}

/// An opened plan; members are released last to first.
struct Loaded {
    std::unique_ptr<Log> log = std::make_unique<Log>();
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
};

/// Throws Failure (backend_error); the message does not name the plan.
Loaded load(const PlanRecord& plan, Bytes data) {
    const std::string said = plan.backend + " " + library_version();
    Loaded loaded;
    loaded.runtime.reset(nvinfer1::createInferRuntime(*loaded.log));
    if (loaded.runtime == nullptr) {
        fail_plan(said + " cannot create a runtime: " + loaded.log->why());
    }
    if (plan.is_version_compatible) {
        loaded.runtime->setEngineHostCodeAllowed(true);
    }
    loaded.engine.reset(loaded.runtime->deserializeCudaEngine(data.data(), data.size()));
    if (loaded.engine == nullptr) {
        fail_plan(said + " cannot open it (built by " + plan.version + "): " + loaded.log->why());
    }
    if (loaded.engine->getName() != plan.graph_sha256) {
        fail_plan("its bytes name another graph than its record, " + plan.graph_sha256.substr(0, 12) + "...");
    }
    loaded.context.reset(loaded.engine->createExecutionContext());
    if (loaded.context == nullptr) {
        fail_plan(said + " cannot create an execution context: " + loaded.log->why());
    }
    return loaded;
}

/// A plan with its buffers; a batch below the profile's minimum is padded with black images.
class PlanRunner final : public Runner {
public:
    PlanRunner(Loaded loaded, const Gpu& gpu, const PlanRecord& plan, std::size_t num_classes)
        : gpu_(gpu.number),
          min_batch_(plan.min_batch),
          num_classes_(num_classes),
          pinned_images_(plan.max_batch * square_bytes),
          pinned_probabilities_(plan.max_batch * num_classes * sizeof(float)),
          device_images_(plan.max_batch * square_bytes),
          device_probabilities_(plan.max_batch * num_classes * sizeof(float)),
          loaded_(std::move(loaded)) {
        insist(loaded_.context->setTensorAddress(images_name, device_images_.start()), "place its input");
        insist(loaded_.context->setTensorAddress(probabilities_name, device_probabilities_.start()), "place its output");
    }

    void run(const std::uint8_t* squares, std::size_t num_images, float* probabilities) override {
        // CUDA's current device is a property of the thread.
        check_cuda(cudaSetDevice(gpu_), "use the GPU");
        const std::size_t batch = std::max(num_images, min_batch_);
        auto* images = pinned_images_.as<std::uint8_t>();
        std::copy_n(squares, num_images * square_bytes, images);
        std::fill(images + num_images * square_bytes, images + batch * square_bytes, std::uint8_t{0});
        const nvinfer1::Dims4 shape(static_cast<std::int64_t>(batch), side, side, 3);
        insist(loaded_.context->setInputShape(images_name, shape), "take this batch");
        check_cuda(cudaMemcpyAsync(device_images_.start(), images, batch * square_bytes, cudaMemcpyHostToDevice,
                                   stream_.get()),
                   "upload images");
        insist(loaded_.context->enqueueV3(stream_.get()), "run this batch");
        const auto* answer = pinned_probabilities_.as<float>();
        check_cuda(cudaMemcpyAsync(pinned_probabilities_.as<float>(), device_probabilities_.start(),
                                   batch * num_classes_ * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                   "download probabilities");
        check_cuda(cudaStreamSynchronize(stream_.get()), "finish a run");
        std::copy_n(answer, num_images * num_classes_, probabilities);
    }

private:
    void insist(bool is_done, const char* what) const {
        if (!is_done) {
            fail_plan(std::string("the plan cannot ") + what + ": " + loaded_.log->why());
        }
    }

    int gpu_;
    std::size_t min_batch_;
    std::size_t num_classes_;
    PinnedMemory pinned_images_, pinned_probabilities_;
    DeviceMemory device_images_, device_probabilities_;
    Stream stream_;
    Loaded loaded_;
};

std::string arithmetic_of(const std::string& precision) {
    if (precision == "fp16") {
        return "float16";
    }
    return precision == "int8" ? "int8 products" : "float32";
}

Gpu gpu_for(const Bundle& bundle, const Request& request) {
    try {
        return find_gpu(request.device);
    } catch (const Failure& failure) {
        fail_plan(bundle.path().string() + ": " + request.backend + " needs an NVIDIA GPU to run plans: " +
                  failure.what());
    }
}

}  // namespace

Opened open_plan(const Bundle& bundle, const Request& request) {
    const Manifest& manifest = bundle.manifest();
    const Gpu gpu = gpu_for(bundle, request);
    const PlanRecord& plan = choose(bundle, request.backend, gpu);
    const std::vector<std::uint8_t> data = bundle.read(plan.file);
    const std::string name = (bundle.path() / plan.file).string();
    const std::string remedy =
        "; rebuild it with `alexnet-deploy build " + bundle.path().string() + " --plan " + request.backend + "`";
    const auto graph = manifest.files.find(graph_file);
    if (graph == manifest.files.end() || graph->second.sha256 != plan.graph_sha256) {
        fail_plan(name + ": was built from another graph than " + graph_file + remedy);
    }
    if (const std::string problem = target_problem(plan, gpu); !problem.empty()) {
        fail_plan(name + ": " + problem + remedy);
    }
    try {
        Opened opened{{}, library_version(), gpu.target(), arithmetic_of(manifest.precision), plan.max_batch,
                      plan.opt_batch, plan.is_proof_pending};
        opened.runners.push_back(
            std::make_unique<PlanRunner>(load(plan, data), gpu, plan, manifest.num_classes));
        return opened;
    } catch (const Failure& failure) {
        fail_plan(name + ": " + failure.what() + remedy);
    }
}

}  // namespace alexnet_deploy
