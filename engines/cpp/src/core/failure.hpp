// Every error this library raises on purpose: one class with a status, so that the C interface can report it.
#pragma once

#include <stdexcept>
#include <string>

#include "alexnet_deploy.h"
#include "core/words.hpp"

namespace alexnet_deploy {

/// A failure; the message is one sentence for the user, on one line whatever a file's text holds.
class Failure : public std::runtime_error {
public:
    Failure(alexnet_deploy_status status, const std::string& message)
        : std::runtime_error(escaped(message)), status_(status) {}

    [[nodiscard]] alexnet_deploy_status status() const noexcept { return status_; }

private:
    alexnet_deploy_status status_;
};

[[noreturn]] inline void fail(alexnet_deploy_status status, const std::string& message) {
    throw Failure(status, message);
}

}  // namespace alexnet_deploy
