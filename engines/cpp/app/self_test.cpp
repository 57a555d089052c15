// self_test BUNDLE: verifies every byte of the bundle, then decodes and classifies its golden images and files.
#include <alexnet_deploy.hpp>

#include <cstdio>

int main(int argc, char** argv) try {
    if (argc != 2) {
        std::fprintf(stderr, "usage: self_test BUNDLE\n");
        return 2;
    }
    alexnet_deploy::verify(argv[1]);
    alexnet_deploy::Engine engine(argv[1]);
    const auto proof = engine.prove();
    const auto info = engine.info();
    std::printf("%s %s, %s, %s: %d golden images within %.1e, %d of %d golden files equal to the bit: passed\n",
                info.backend, info.version, info.precision, info.arithmetic, proof.num_images, proof.max_error,
                proof.num_files_exact, proof.num_files);
    return 0;
} catch (const alexnet_deploy::ParityError& error) {
    std::fprintf(stderr, "error: %s: %s\n", error.code(), error.what());
    return 1;
} catch (const alexnet_deploy::Error& error) {
    std::fprintf(stderr, "error: %s: %s\n", error.code(), error.what());
    return 3;
}
