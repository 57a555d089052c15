# Finds the runtime of TensorRT or, with ALEXNET_DEPLOY_WITH_PLANS=tensorrt-rtx, of TensorRT-RTX, and CUDA's runtime, and
# defines TensorRT::TensorRT. NVIDIA's headers are not part of this project.
#
#   -DTensorRT_ROOT=DIR          NVIDIA's archive, with include/ and lib/
#   -DTensorRT_LIBRARY=FILE      the library alone, as from a Python wheel
#   -DTensorRT_INCLUDE_DIR=DIR   the folder of NvInferRuntime.h
#   -DCUDART_LIBRARY=FILE, -DCUDART_INCLUDE_DIR=DIR
if(ALEXNET_DEPLOY_WITH_PLANS STREQUAL "tensorrt-rtx")
    set(tensorrt_names tensorrt_rtx)
else()
    set(tensorrt_names nvinfer)
endif()
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h)
find_library(TensorRT_LIBRARY NAMES ${tensorrt_names})
find_path(CUDART_INCLUDE_DIR cuda_runtime_api.h HINTS /usr/local/cuda/include)
find_library(CUDART_LIBRARY cudart HINTS /usr/local/cuda/lib64)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
    REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR CUDART_LIBRARY CUDART_INCLUDE_DIR)
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
    add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
    set_target_properties(TensorRT::TensorRT PROPERTIES
        IMPORTED_LOCATION "${TensorRT_LIBRARY}"
        INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR};${CUDART_INCLUDE_DIR}"
        INTERFACE_LINK_LIBRARIES "${CUDART_LIBRARY}"
    )
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY CUDART_INCLUDE_DIR CUDART_LIBRARY)
