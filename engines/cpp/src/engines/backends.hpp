// The backends; each is a build option.
#pragma once

#include "bundle/bundle.hpp"
#include "engines/runner.hpp"

namespace alexnet_deploy {

/// Each opens a graph on its library, obeying the request. Throws Failure (backend_error).
Opened open_openvino(const GraphSource& source, const Request& request);
Opened open_onnxruntime(const GraphSource& source, const Request& request);

/// Opens the plan of a bundle on `backend`, tensorrt or tensorrt-rtx. Throws Failure (integrity_error, backend_error).
Opened open_plan(const Bundle& bundle, const Request& request);

}  // namespace alexnet_deploy
