// A GPU without hardware. Its plans are text: the digest of a graph and the number of classes. Image n of a batch gets
// the class of its first byte, modulo the number of classes.
//
// FAKE_NVIDIA=no-gpu stands for a machine without a driver.
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "NvInferRuntime.h"

namespace {

int num_classes = 0;
int largest_batch = 4;

}  // namespace

std::int32_t getInferLibVersion() noexcept { return 101300; }

const char* cudaGetErrorString(cudaError_t) { return "CUDA driver version is insufficient for CUDA runtime version"; }
cudaError_t cudaGetDeviceCount(int* count) {
    const char* kind = std::getenv("FAKE_NVIDIA");
    *count = 1;
    return kind != nullptr && std::strcmp(kind, "no-gpu") == 0 ? cudaErrorInsufficientDriver : cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    std::strcpy(properties->name, "Fake H100");
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** start, std::size_t num_bytes, unsigned int) { return cudaMalloc(start, num_bytes); }
cudaError_t cudaFreeHost(void* start) { return cudaFree(start); }
cudaError_t cudaMalloc(void** start, std::size_t num_bytes) {
    *start = std::calloc(num_bytes, 1);
    return cudaSuccess;
}
cudaError_t cudaFree(void* start) {
    std::free(start);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned int) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t num_bytes, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, num_bytes);
    return cudaSuccess;
}

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

ICudaEngine* IRuntime::deserializeCudaEngine(const void* data, std::size_t size) noexcept {
    std::istringstream plan(std::string(static_cast<const char*>(data), size));
    std::string name;
    if (!(plan >> name >> num_classes)) {
        logger_.log(ILogger::Severity::kERROR, "Serialization assertion failed.\nVersion tag does not match.");
        return nullptr;
    }
    return new ICudaEngine(name);
}

IExecutionContext* ICudaEngine::createExecutionContext() noexcept { return new IExecutionContext(); }

bool IExecutionContext::setTensorAddress(const char* name, void* address) noexcept {
    if (std::strcmp(name, "images") == 0) {
        images_ = static_cast<const std::uint8_t*>(address);
        return true;
    }
    probabilities_ = static_cast<float*>(address);
    return std::strcmp(name, "probabilities") == 0;
}

bool IExecutionContext::setInputShape(const char* name, const Dims64& shape) noexcept {
    batch_ = shape.d[0];
    return std::strcmp(name, "images") == 0 && shape.nbDims == 4 && shape.d[1] == 256 && shape.d[3] == 3 &&
           batch_ >= 2 && batch_ <= largest_batch;
}

bool IExecutionContext::enqueueV3(cudaStream_t) noexcept {
    for (std::int64_t image = 0; image < batch_; ++image) {
        float* row = probabilities_ + image * num_classes;
        std::fill(row, row + num_classes, 0.0F);
        row[images_[image * 256 * 256 * 3] % num_classes] = 1.0F;
    }
    return true;
}

}  // namespace nvinfer1
