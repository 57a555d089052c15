// The few classes of TensorRT's runtime that src/engines/plan.cpp uses, declared for tests without NVIDIA's headers.
// Names and signatures are those of TensorRT 10 (docs.nvidia.com/deeplearning/tensorrt, C++ API).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda_runtime_api.h"

std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

struct Dims64 {
    std::int32_t nbDims;
    std::int64_t d[8];
};

struct Dims4 : Dims64 {
    Dims4(std::int64_t d0, std::int64_t d1, std::int64_t d2, std::int64_t d3) : Dims64{4, {d0, d1, d2, d3}} {}
};

class IExecutionContext {
public:
    bool setTensorAddress(const char* name, void* address) noexcept;
    bool setInputShape(const char* name, const Dims64& shape) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;

private:
    const std::uint8_t* images_ = nullptr;
    float* probabilities_ = nullptr;
    std::int64_t batch_ = 0;
};

class ICudaEngine {
public:
    explicit ICudaEngine(std::string name) : name_(std::move(name)) {}
    const char* getName() const noexcept { return name_.c_str(); }
    IExecutionContext* createExecutionContext() noexcept;

private:
    std::string name_;
};

class IRuntime {
public:
    explicit IRuntime(ILogger& logger) : logger_(logger) {}
    void setEngineHostCodeAllowed(bool) noexcept {}
    ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept;

private:
    ILogger& logger_;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
