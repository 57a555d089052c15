#include "interface/guard.hpp"

namespace alexnet_deploy {
namespace {

std::string& message_of_thread() {
    thread_local std::string message;
    return message;
}

}  // namespace

alexnet_deploy_status remember(alexnet_deploy_status status, const char* message) noexcept {
    try {
        message_of_thread() = message;
    } catch (...) {
        // No memory for the sentence; the status still says what happened.
        message_of_thread().clear();
    }
    return status;
}

}  // namespace alexnet_deploy

const char* alexnet_deploy_last_error(void) { return alexnet_deploy::message_of_thread().c_str(); }

const char* alexnet_deploy_status_name(alexnet_deploy_status status) {
    switch (status) {
        case ALEXNET_DEPLOY_OK: return "ok";
        case ALEXNET_DEPLOY_EMPTY: return "empty";
        case ALEXNET_DEPLOY_NOT_AN_IMAGE: return "not_an_image";
        case ALEXNET_DEPLOY_UNSUPPORTED_FORMAT: return "unsupported_format";
        case ALEXNET_DEPLOY_TRUNCATED: return "truncated";
        case ALEXNET_DEPLOY_TOO_LARGE: return "too_large";
        case ALEXNET_DEPLOY_UNREADABLE: return "unreadable";
        case ALEXNET_DEPLOY_MISSING: return "missing";
        case ALEXNET_DEPLOY_USAGE_ERROR: return "usage_error";
        case ALEXNET_DEPLOY_BUNDLE_ERROR: return "bundle_error";
        case ALEXNET_DEPLOY_INTEGRITY_ERROR: return "integrity_error";
        case ALEXNET_DEPLOY_BACKEND_ERROR: return "backend_error";
        case ALEXNET_DEPLOY_WRONG_ANSWER_ERROR: return "wrong_answer_error";
        case ALEXNET_DEPLOY_PARITY_ERROR: return "parity_error";
        case ALEXNET_DEPLOY_INTERNAL_ERROR: return "internal_error";
    }
    return "unknown";
}

const char* alexnet_deploy_version(void) { return ALEXNET_DEPLOY_VERSION; }
