// classify IMAGE...: the five most probable classes of each image file.
#include <alexnet_deploy.hpp>

#include <cstdio>

int main(int argc, char** argv) try {
    alexnet_deploy::Engine engine(BUNDLE);
    int num_failed = 0;
    for (int index = 1; index < argc; ++index) {
        try {
            const auto probabilities = engine.classify_file(argv[index]);
            std::printf("%s", argv[index]);
            for (const auto& [label, probability] : engine.top(probabilities, 5)) {
                std::printf("  %.2f%% %.*s", 100.0 * static_cast<double>(probability), static_cast<int>(label.size()),
                            label.data());
            }
            std::printf("\n");
        } catch (const alexnet_deploy::ImageError& error) {
            std::printf("%s  -- %s: %s\n", argv[index], error.code(), error.what());
            ++num_failed;
        }
    }
    return num_failed == 0 ? 0 : 1;
} catch (const alexnet_deploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
}
