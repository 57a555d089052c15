// Memory and a stream of a GPU, owned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "core/failure.hpp"

namespace alexnet_deploy {

inline void check_cuda(cudaError_t code, const char* what) {
    if (code != cudaSuccess) {
        fail(ALEXNET_DEPLOY_BACKEND_ERROR, std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(code));
    }
}

/// Memory of the host that the GPU copies from and to without the processor.
class PinnedMemory {
public:
    explicit PinnedMemory(std::size_t num_bytes) {
        check_cuda(cudaHostAlloc(&start_, num_bytes, cudaHostAllocDefault), "allocate pinned memory");
    }
    ~PinnedMemory() { cudaFreeHost(start_); }
    PinnedMemory(const PinnedMemory&) = delete;
    PinnedMemory& operator=(const PinnedMemory&) = delete;

    template <typename Value>
    [[nodiscard]] Value* as() const {
        return static_cast<Value*>(start_);
    }

private:
    void* start_ = nullptr;
};

class DeviceMemory {
public:
    explicit DeviceMemory(std::size_t num_bytes) { check_cuda(cudaMalloc(&start_, num_bytes), "allocate memory"); }
    ~DeviceMemory() { cudaFree(start_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    [[nodiscard]] void* start() const { return start_; }

private:
    void* start_ = nullptr;
};

class Stream {
public:
    Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    [[nodiscard]] cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

}  // namespace alexnet_deploy
