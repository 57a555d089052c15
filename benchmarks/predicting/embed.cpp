// What benchmarks/predicting/embed.py times of the C++ library.
//
//     embed latency BUNDLE BACKEND REPEATS <paths        seconds from a file's bytes to its answer, one a line
//     embed throughput BUNDLE BACKEND <paths             seconds from the first file to the last answer
#include <alexnet_deploy.hpp>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::uint8_t>;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Bytes read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void latency(alexnet_deploy::Engine& engine, const std::vector<std::string>& paths, int repeats) {
    std::vector<Bytes> files;
    for (const auto& path : paths) {
        files.push_back(read(path));
    }
    for (const auto& data : files) {
        engine.classify(data);
    }
    for (int index = 0; index < repeats; ++index) {
        const auto start = Clock::now();
        engine.classify(files[static_cast<std::size_t>(index) % files.size()]);
        std::printf("%.9f\n", seconds_since(start));
    }
}

/// Threads that each decode a batch and run it; with more threads than streams, some decode while others run.
double throughput(alexnet_deploy::Engine& engine, const std::vector<std::string>& paths) {
    const auto info = engine.info();
    const auto batch = static_cast<std::size_t>(info.batch_size);
    const auto resize = static_cast<alexnet_deploy::Resize>(info.resize);
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        alexnet_deploy::Square squares(batch * ALEXNET_DEPLOY_SQUARE_BYTES);
        while (true) {
            const std::size_t first = next.fetch_add(batch);
            if (first >= paths.size()) {
                return;
            }
            const std::size_t count = std::min(batch, paths.size() - first);
            for (std::size_t index = 0; index < count; ++index) {
                const auto square = alexnet_deploy::decode_file(paths[first + index], resize);
                std::copy(square.begin(), square.end(), squares.begin() + static_cast<std::ptrdiff_t>(index * square.size()));
            }
            engine.classify_squares({squares.data(), count * ALEXNET_DEPLOY_SQUARE_BYTES});
        }
    };
    engine.classify_file(paths.front());
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < std::thread::hardware_concurrency() + static_cast<unsigned>(info.num_streams); ++index) {
        threads.emplace_back(work);
    }
    for (auto& thread : threads) {
        thread.join();
    }
    return seconds_since(start);
}

}  // namespace

int main(int argc, char** argv) try {
    const std::string mode = argc > 3 ? argv[1] : "";
    std::vector<std::string> paths;
    for (std::string path; std::getline(std::cin, path);) {
        paths.push_back(path);
    }
    if ((mode != "latency" && mode != "throughput") || paths.empty()) {
        std::fprintf(stderr, "usage: %s latency|throughput BUNDLE BACKEND [REPEATS] <paths\n", argv[0]);
        return 2;
    }
    alexnet_deploy::Options options;
    options.backend = argv[3];
    options.tuning = mode == "latency" ? alexnet_deploy::Tuning::latency : alexnet_deploy::Tuning::throughput;
    alexnet_deploy::Engine engine(argv[2], options);
    if (mode == "latency") {
        latency(engine, paths, argc > 4 ? std::atoi(argv[4]) : 100);
    } else {
        std::printf("%.9f\n", throughput(engine, paths));
    }
    return 0;
} catch (const alexnet_deploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
}
