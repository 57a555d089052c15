// Which backends this library was built with, and which of them a request means.
#pragma once

#include <string>

#include "bundle/bundle.hpp"
#include "engines/runner.hpp"

namespace alexnet_deploy {

/// Names of the built-in backends, separated by commas.
const char* built_in_backends();

/// Choose and open a backend; writes its name to `backend`. Throws Failure (usage_error, integrity_error,
/// backend_error).
Opened open_backend(const Bundle& bundle, const Request& request, std::string& backend);

}  // namespace alexnet_deploy
