// Classifies image files: classify BUNDLE IMAGE...
#include <alexnet_deploy.hpp>

#include <cstdio>

int main(int argc, char** argv) try {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s BUNDLE IMAGE...\n", argv[0]);
        return 2;
    }
    alexnet_deploy::Engine engine(argv[1]);
    int result = 0;
    for (int index = 2; index < argc; ++index) {
        try {
            for (const auto& [label, probability] : engine.top(engine.classify_file(argv[index]), 5)) {
                std::printf("%s\t%.6f\t%.*s\n", argv[index], static_cast<double>(probability),
                            static_cast<int>(label.size()), label.data());
            }
        } catch (const alexnet_deploy::ImageError& error) {
            std::fprintf(stderr, "%s: %s: %s\n", argv[index], error.code(), error.what());
            result = 1;
        }
    }
    return result;
} catch (const alexnet_deploy::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
}
