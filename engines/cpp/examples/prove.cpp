// Proves an engine on this machine from its bundle alone: prove BUNDLE [BACKEND]
#include <alexnet_deploy.hpp>

#include <cstdio>

int main(int argc, char** argv) try {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s BUNDLE [BACKEND]\n", argv[0]);
        return 2;
    }
    alexnet_deploy::Options options;
    options.backend = argc > 2 ? argv[2] : "auto";
    alexnet_deploy::verify(argv[1]);
    alexnet_deploy::Engine engine(argv[1], options);
    const auto proof = engine.prove();
    const auto info = engine.info();
    std::printf("%s %s: %d golden images, %d of %d golden files equal to the bit, largest error %.2g: passed\n",
                info.backend, info.version, proof.num_images, proof.num_files_exact, proof.num_files, proof.max_error);
    return 0;
} catch (const alexnet_deploy::ParityError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
} catch (const alexnet_deploy::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
}
