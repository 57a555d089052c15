# Finds ONNX Runtime's library and headers and defines ONNXRuntime::ONNXRuntime.
#
# A release archive, a Debian package, and the library of the Python wheel with the headers of either all work:
#   -DONNXRuntime_ROOT=DIR          an archive, with include/ and lib/
#   -DONNXRuntime_LIBRARY=FILE      the library alone
#   -DONNXRuntime_INCLUDE_DIR=DIR   the folder of onnxruntime_cxx_api.h
find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_cxx_api.h PATH_SUFFIXES onnxruntime onnxruntime/core/session)
find_library(ONNXRuntime_LIBRARY onnxruntime)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR)
if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
    add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
    set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
        IMPORTED_LOCATION "${ONNXRuntime_LIBRARY}"
        INTERFACE_INCLUDE_DIRECTORIES "${ONNXRuntime_INCLUDE_DIR}"
    )
endif()
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)
