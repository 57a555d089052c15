// ONNX Runtime, on the CPU or an NVIDIA GPU: the twin of engines/backends/onnxruntime.py.
//
// The library is asked for the oldest version of its interface that is needed, so that one binary runs with any later one.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>

#include "core/failure.hpp"
#include "engines/backends.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {
namespace {

constexpr std::uint32_t oldest_interface = 16;

class OnnxRuntimeRunner final : public Runner {
public:
    OnnxRuntimeRunner(Ort::Session session, std::size_t num_classes)
        : session_(std::move(session)), num_classes_(static_cast<std::int64_t>(num_classes)) {}

    void run(const std::uint8_t* squares, std::size_t num_images, float* probabilities) override {
        const auto count = static_cast<std::int64_t>(num_images);
        const std::array<std::int64_t, 4> shape{count, side, side, 3};
        std::vector<Ort::Value> answers;
        try {
            // ONNX Runtime's interface lacks const, but it does not write to its inputs.
            const Ort::Value images = Ort::Value::CreateTensor<std::uint8_t>(
                memory_, const_cast<std::uint8_t*>(squares), num_images * square_bytes, shape.data(), shape.size());
            answers = session_.Run(Ort::RunOptions{nullptr}, &images_name, &images, 1, &probabilities_name, 1);
        } catch (const Ort::Exception& error) {
            fail(ALEXNET_DEPLOY_BACKEND_ERROR,
                 "onnxruntime: the graph could not be run: " + in_one_line(error.what()));
        }
        const auto info = answers.front().GetTensorTypeAndShapeInfo();
        if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
            info.GetShape() != std::vector<std::int64_t>{count, num_classes_}) {
            fail(ALEXNET_DEPLOY_WRONG_ANSWER_ERROR, "onnxruntime: its output has another type or shape");
        }
        std::copy_n(answers.front().GetTensorData<float>(), count * num_classes_, probabilities);
    }

private:
    Ort::Session session_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::int64_t num_classes_;
};

/// The environment of the process. Throws Failure (backend_error) for a library without the interface.
const Ort::Env& environment() {
    static const Ort::Env env = [] {
        const OrtApi* api = OrtGetApiBase()->GetApi(oldest_interface);
        if (api == nullptr) {
            fail(ALEXNET_DEPLOY_BACKEND_ERROR,
                 std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() + " is too old; 1.16 is needed");
        }
        Ort::InitApi(api);
        // Fatal only: errors are raised, and would also be printed.
        return Ort::Env(ORT_LOGGING_LEVEL_FATAL, "alexnet-deploy");
    }();
    return env;
}

std::string arithmetic_of(const GraphSource& source, bool on_cuda) {
    if (source.precision == "int8") {
        return "float32, rounded to int8";
    }
    if (source.precision == "fp16") {
        return on_cuda ? "float16" : "float32, rounded to float16";
    }
    return "float32";
}

/// Run on a GPU and nowhere else.
void use_cuda(Ort::SessionOptions& options, const std::string& device) {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* settings = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&settings));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> owner(
        settings, api.ReleaseCUDAProviderOptions);
    // TF32 is on by default and would multiply float32 with eleven bits.
    const std::string number = device == "cuda" ? "0" : device.substr(device.find(':') + 1);
    const std::array<const char*, 2> keys{"device_id", "use_tf32"}, values{number.c_str(), "0"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(settings, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*settings);
    // Otherwise operators that the GPU does not support run on the CPU silently.
    options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
}

}  // namespace

Opened open_onnxruntime(const GraphSource& source, const Request& request) {
    const Ort::Env& env = environment();
    const bool on_cuda = request.device.rfind("cuda", 0) == 0;
    try {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(request.num_threads);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
        if (on_cuda) {
            use_cuda(options, request.device);
        }
        Opened opened{{},
                      OrtGetApiBase()->GetVersionString(),
                      on_cuda ? request.device : "cpu",
                      arithmetic_of(source, on_cuda),
                      max_batch_for(source.num_views),
                      batch_size_for(source.num_views),
                      false};
        opened.runners.push_back(std::make_unique<OnnxRuntimeRunner>(
            Ort::Session(env, source.data.data(), source.data.size(), options), source.num_classes));
        return opened;
    } catch (const Ort::Exception& error) {
        fail(ALEXNET_DEPLOY_BACKEND_ERROR, source.name + ": onnxruntime cannot load the graph" +
                                               (on_cuda ? " on " + request.device : "") + ": " +
                                               in_one_line(error.what()));
    }
}

}  // namespace alexnet_deploy
