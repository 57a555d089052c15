// The C interface to bundles and engines.
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "alexnet_deploy.h"
#include "engines/engine.hpp"
#include "engines/proof.hpp"
#include "engines/registry.hpp"
#include "images/decode.hpp"
#include "images/square.hpp"
#include "interface/guard.hpp"
#include "interface/requests.hpp"

using namespace alexnet_deploy;

struct alexnet_deploy_engine {
    alexnet_deploy_engine(const char* bundle, const Request& request, const Limits& limits)
        : engine(Bundle(bundle), request, limits) {}

    Engine engine;
};

namespace {

/// Throws Failure (usage_error) unless the caller's array is as long as the answer.
void check_room(const Engine& engine, std::size_t num_images, std::size_t num_values) {
    const std::size_t num_classes = engine.labels().size();
    if (num_images == 0 || num_values / num_images != num_classes || num_values % num_images != 0) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR,
             "probabilities must have " + std::to_string(num_images) + " x " + std::to_string(num_classes) +
                 " values, got " + std::to_string(num_values) + (num_images == 0 ? "; there are no images" : ""));
    }
}

struct Options {
    Request request;
    Limits limits;
};

Options options_of(const alexnet_deploy_options* given) {
    Options options;
    if (given == nullptr) {
        return options;
    }
    if (given->struct_bytes != sizeof(alexnet_deploy_options)) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR,
             "options have " + std::to_string(given->struct_bytes) + " bytes, this library expects " +
                 std::to_string(sizeof(alexnet_deploy_options)) + "; initialise them with ALEXNET_DEPLOY_OPTIONS");
    }
    if (given->tuning != ALEXNET_DEPLOY_LATENCY && given->tuning != ALEXNET_DEPLOY_THROUGHPUT) {
        fail(ALEXNET_DEPLOY_USAGE_ERROR, std::to_string(static_cast<int>(given->tuning)) + " is not a tuning");
    }
    options.request.backend = given->backend == nullptr ? "auto" : given->backend;
    options.request.device = given->device == nullptr ? "auto" : given->device;
    options.request.num_threads = given->num_threads;
    options.request.tuning = given->tuning;
    options.limits = limits_of(&given->limits);
    return options;
}

/// Classify the square that `fill` writes.
template <typename Fill>
alexnet_deploy_status classify_one(alexnet_deploy_engine* handle, float* probabilities, std::size_t num_values,
                                   Fill&& fill) {
    return guarded([&] {
        Engine& engine = required(handle, "engine").engine;
        required(probabilities, "probabilities");
        check_room(engine, 1, num_values);
        std::vector<std::uint8_t> square(ALEXNET_DEPLOY_SQUARE_BYTES);
        fill(engine, square.data());
        engine.run(square.data(), 1, probabilities);
    });
}

}  // namespace

const char* alexnet_deploy_backends(void) { return built_in_backends(); }

alexnet_deploy_status alexnet_deploy_verify(const char* bundle) {
    return guarded([&] { Bundle(&required(bundle, "bundle")).verify(); });
}

alexnet_deploy_status alexnet_deploy_open(const char* bundle, const alexnet_deploy_options* options,
                                          alexnet_deploy_engine** engine) {
    return guarded([&] {
        required(engine, "engine") = nullptr;
        const auto [request, limits] = options_of(options);
        auto opened = std::make_unique<alexnet_deploy_engine>(&required(bundle, "bundle"), request, limits);
        if (opened->engine.is_proof_pending()) {
            alexnet_deploy_proof unwanted{};
            prove(opened->engine, unwanted);
        }
        *engine = opened.release();
    });
}

void alexnet_deploy_close(alexnet_deploy_engine* engine) { std::unique_ptr<alexnet_deploy_engine>{engine}.reset(); }

alexnet_deploy_status alexnet_deploy_prove(alexnet_deploy_engine* engine, alexnet_deploy_proof* proof) {
    return guarded([&] {
        alexnet_deploy_proof unwanted{};
        prove(required(engine, "engine").engine, proof == nullptr ? unwanted : *proof);
    });
}

alexnet_deploy_status alexnet_deploy_describe(const alexnet_deploy_engine* engine, alexnet_deploy_info* info) {
    return guarded([&] {
        const Engine& described = required(engine, "engine").engine;
        const Manifest& manifest = described.bundle().manifest();
        required(info, "info") = {described.backend().c_str(),
                                  described.version().c_str(),
                                  described.device().c_str(),
                                  manifest.precision.c_str(),
                                  described.arithmetic().c_str(),
                                  described.bundle().sha256().c_str(),
                                  manifest.policy,
                                  static_cast<std::int32_t>(described.num_streams()),
                                  static_cast<std::int32_t>(described.batch_size())};
    });
}

std::size_t alexnet_deploy_num_classes(const alexnet_deploy_engine* engine) {
    return engine == nullptr ? 0 : engine->engine.labels().size();
}

const char* alexnet_deploy_class_name(const alexnet_deploy_engine* engine, std::size_t index) {
    return index < alexnet_deploy_num_classes(engine) ? engine->engine.labels()[index].c_str() : nullptr;
}

alexnet_deploy_status alexnet_deploy_classify_squares(alexnet_deploy_engine* engine, const std::uint8_t* squares,
                                                      std::size_t num_images, float* probabilities,
                                                      std::size_t num_values) {
    return guarded([&] {
        Engine& opened = required(engine, "engine").engine;
        required(squares, "squares");
        required(probabilities, "probabilities");
        check_room(opened, num_images, num_values);
        opened.run(squares, num_images, probabilities);
    });
}

alexnet_deploy_status alexnet_deploy_classify(alexnet_deploy_engine* engine, const void* data, std::size_t num_bytes,
                                              float* probabilities, std::size_t num_values) {
    return classify_one(engine, probabilities, num_values, [&](const Engine& opened, std::uint8_t* square) {
        decode_image(bytes_of(data, num_bytes), opened.bundle().manifest().policy, opened.limits(), square);
    });
}

alexnet_deploy_status alexnet_deploy_classify_file(alexnet_deploy_engine* engine, const char* path,
                                                   float* probabilities, std::size_t num_values) {
    return classify_one(engine, probabilities, num_values, [&](const Engine& opened, std::uint8_t* square) {
        const std::vector<std::uint8_t> data = read_image_file(&required(path, "path"), opened.limits());
        decode_image(data, opened.bundle().manifest().policy, opened.limits(), square);
    });
}

alexnet_deploy_status alexnet_deploy_classify_frame(alexnet_deploy_engine* engine, const alexnet_deploy_frame* frame,
                                                    float* probabilities, std::size_t num_values) {
    return classify_one(engine, probabilities, num_values, [&](const Engine& opened, std::uint8_t* square) {
        to_square(view_of(required(frame, "frame")), opened.bundle().manifest().policy.resize, square);
    });
}
