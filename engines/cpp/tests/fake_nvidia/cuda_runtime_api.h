// The few functions of CUDA's runtime that the library uses, declared for tests without NVIDIA's headers.
#pragma once

#include <cstddef>

enum cudaError_t { cudaSuccess = 0, cudaErrorInsufficientDriver = 35 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };

struct cudaDeviceProp {
    char name[256];
};

using cudaStream_t = struct CUstream_st*;

constexpr unsigned int cudaHostAllocDefault = 0, cudaStreamNonBlocking = 1;

const char* cudaGetErrorString(cudaError_t code);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaHostAlloc(void** start, std::size_t num_bytes, unsigned int flags);
cudaError_t cudaFreeHost(void* start);
cudaError_t cudaMalloc(void** start, std::size_t num_bytes);
cudaError_t cudaFree(void* start);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t num_bytes, cudaMemcpyKind kind, cudaStream_t stream);
