// self_test BUNDLE: verifies every byte of the bundle, then decodes and classifies its golden images and files.
#include <cstdio>

#include "alexnet_deploy.h"

namespace {

bool holds(alexnet_deploy_status status) {
    if (status != ALEXNET_DEPLOY_OK) {
        std::fprintf(stderr, "error: %s: %s\n", alexnet_deploy_status_name(status), alexnet_deploy_last_error());
    }
    return status == ALEXNET_DEPLOY_OK;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: self_test BUNDLE\n");
        return 2;
    }
    alexnet_deploy_engine* engine = nullptr;
    if (!holds(alexnet_deploy_verify(argv[1])) || !holds(alexnet_deploy_open(argv[1], nullptr, &engine))) {
        return 3;
    }
    alexnet_deploy_info info{};
    alexnet_deploy_proof proof{};
    const bool passed = holds(alexnet_deploy_describe(engine, &info)) && holds(alexnet_deploy_prove(engine, &proof));
    if (passed) {
        std::printf("%s %s, %s, %s: %d golden images within %.1e, %d of %d golden files equal to the bit: passed\n",
                    info.backend, info.version, info.precision, info.arithmetic, proof.num_images, proof.max_error,
                    proof.num_files_exact, proof.num_files);
    }
    alexnet_deploy_close(engine);
    return passed ? 0 : 1;
}
