// The border of the C interface: exceptions become a status and a sentence of this thread.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "alexnet_deploy.h"
#include "core/failure.hpp"

namespace alexnet_deploy {

/// Remember the sentence of a failure for alexnet_deploy_last_error; returns `status`.
alexnet_deploy_status remember(alexnet_deploy_status status, const char* message) noexcept;

/// Run an action; no exception leaves it.
template <typename Action>
alexnet_deploy_status guarded(Action&& action) noexcept {
    try {
        action();
        return ALEXNET_DEPLOY_OK;
    } catch (const Failure& failure) {
        return remember(failure.status(), failure.what());
    } catch (const std::bad_alloc&) {
        return remember(ALEXNET_DEPLOY_INTERNAL_ERROR, "no memory");
    } catch (const std::exception& error) {
        return remember(ALEXNET_DEPLOY_INTERNAL_ERROR, error.what());
    } catch (...) {
        return remember(ALEXNET_DEPLOY_INTERNAL_ERROR, "an unknown exception");
    }
}

}  // namespace alexnet_deploy
