// The public interface, without Python: what is refused, frames in every layout, and many threads on one engine.
//
//     interface_test [BUNDLE]
#include <alexnet_deploy.hpp>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

namespace {

using namespace alexnet_deploy;

int num_failures = 0;

void expect(bool holds, const char* what) {
    if (!holds) {
        std::printf("FAILED: %s\n", what);
        ++num_failures;
    }
}

template <typename Expected, typename Action>
void expect_throws(Action&& action, const char* code, const char* what) {
    try {
        action();
        expect(false, what);
    } catch (const Expected& error) {
        expect(std::string(error.code()) == code && std::string(error.what()).size() > 5, what);
    } catch (const Error&) {
        expect(false, what);
    }
}

/// A frame of random pixels.
struct Noise {
    int width, height;
    std::vector<std::uint8_t> rgb;

    Noise(int columns, int rows) : width(columns), height(rows), rgb(static_cast<std::size_t>(columns * rows) * 3) {
        std::mt19937 random(7);
        for (auto& value : rgb) {
            value = static_cast<std::uint8_t>(random());
        }
    }

    [[nodiscard]] Frame frame() const {
        return {rgb.data(), width, height, std::ptrdiff_t{width} * 3, ALEXNET_DEPLOY_RGB};
    }
};

void test_frames() {
    const Noise noise(301, 207);
    const Square expected = to_square(noise.frame(), Resize::shorter_side);
    expect(expected.size() == ALEXNET_DEPLOY_SQUARE_BYTES, "a square has 256 x 256 x 3 bytes");
    expect(expected != to_square(noise.frame(), Resize::warp), "the policies differ");

    // The same pixels with padding, as BGRA, and stored bottom row first.
    const std::ptrdiff_t stride = 301 * 4 + 20;
    std::vector<std::uint8_t> bgra(static_cast<std::size_t>(stride * 207), 99);
    for (int y = 0; y < 207; ++y) {
        for (int x = 0; x < 301; ++x) {
            const std::uint8_t* from = noise.rgb.data() + (y * 301 + x) * 3;
            std::uint8_t* to = bgra.data() + (206 - y) * stride + x * 4;
            to[0] = from[2], to[1] = from[1], to[2] = from[0];
        }
    }
    const Frame camera{bgra.data() + 206 * stride, 301, 207, -stride, ALEXNET_DEPLOY_BGRA};
    expect(to_square(camera, Resize::shorter_side) == expected, "layout does not change pixels");

    Noise same(256, 256);
    expect(to_square(same.frame(), Resize::warp) == same.rgb, "256 x 256 pixels are unchanged");

    Frame bad = noise.frame();
    bad.stride_bytes = 12;
    expect_throws<UsageError>([&] { to_square(bad, Resize::warp); }, "usage_error", "a short stride is refused");
    bad = noise.frame();
    bad.pixels = nullptr;
    expect_throws<UsageError>([&] { to_square(bad, Resize::warp); }, "usage_error", "a null frame is refused");
    bad = noise.frame();
    bad.height = 0;
    expect_throws<ImageError>([&] { to_square(bad, Resize::warp); }, "empty", "an empty frame is refused");
}

void test_refusals() {
    const std::string text = "no image";
    const View<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    expect_throws<ImageError>([&] { decode(bytes, Resize::warp); }, "not_an_image", "text is not an image");
    expect_throws<ImageError>([&] { decode({bytes.data(), 0}, Resize::warp); }, "empty", "no bytes");
    expect_throws<ImageError>([&] { decode(bytes, Resize::warp, {0, 4, 0}); }, "too_large", "too many bytes");
    expect_throws<UsageError>([&] { decode(bytes, Resize::warp, {-1, 0, 0}); }, "usage_error", "a negative limit");
    expect_throws<ImageError>([] { decode_file("/nowhere/a.jpg", Resize::warp); }, "missing", "a missing file");
    expect_throws<ImageError>([] { decode_file("/", Resize::warp); }, "unreadable", "a directory");
    expect_throws<BundleError>([] { Engine("/nowhere"); }, "bundle_error", "a missing bundle");
    expect_throws<BundleError>([] { verify("/"); }, "bundle_error", "a directory that is not a bundle");

    alexnet_deploy_engine* engine = nullptr;
    expect(alexnet_deploy_open(nullptr, nullptr, &engine) == ALEXNET_DEPLOY_USAGE_ERROR && engine == nullptr,
           "a null bundle is refused");
    expect(alexnet_deploy_open("/nowhere", nullptr, nullptr) == ALEXNET_DEPLOY_USAGE_ERROR, "a null result is refused");
    const alexnet_deploy_options old{4, nullptr, nullptr, 0, ALEXNET_DEPLOY_LATENCY, {0, 0, 0}};
    expect(alexnet_deploy_open("/nowhere", &old, &engine) == ALEXNET_DEPLOY_USAGE_ERROR, "other options are refused");
    expect(alexnet_deploy_num_classes(nullptr) == 0 && alexnet_deploy_class_name(nullptr, 0) == nullptr,
           "no engine has no classes");
    alexnet_deploy_close(nullptr);
}

/// The message of one thread is not that of another.
void test_messages_of_threads() {
    std::string message;
    expect(alexnet_deploy_decode("x", 1, {ALEXNET_DEPLOY_WARP, ALEXNET_DEPLOY_EXACT}, nullptr, nullptr) == ALEXNET_DEPLOY_USAGE_ERROR,
           "a null square is refused");
    std::thread([&message] { message = alexnet_deploy_last_error(); }).join();
    expect(message.empty() && std::string(alexnet_deploy_last_error()).find("square") != std::string::npos,
           "each thread has its own last error");
}

void test_threads(const char* bundle) {
    constexpr int num_threads = 8, num_runs = 5;
    const std::string_view backends = alexnet_deploy_backends();
    for (const std::string name : {"openvino", "onnxruntime"}) {
        if (backends.find(name) == std::string_view::npos) {
            continue;
        }
        Options options;
        options.backend = name;
        options.tuning = Tuning::throughput;
        Engine engine(bundle, options);
        std::vector<std::thread> threads;
        std::vector<int> num_equal(num_threads);
        for (int number = 0; number < num_threads; ++number) {
            threads.emplace_back([&engine, &num_equal, number] {
                const Noise noise(200 + number, 300);
                const std::vector<float> first = engine.classify_frame(noise.frame());
                for (int run = 0; run < num_runs; ++run) {
                    num_equal[static_cast<std::size_t>(number)] += engine.classify_frame(noise.frame()) == first;
                }
            });
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        expect(std::accumulate(num_equal.begin(), num_equal.end(), 0) == num_threads * num_runs,
               "threads do not disturb one another");
        expect_throws<UsageError>([&] { engine.classify_squares(std::vector<std::uint8_t>(5)); }, "usage_error",
                                  "part of a square is refused");
        expect_throws<UsageError>([&] { engine.classify_squares(std::vector<std::uint8_t>()); }, "usage_error",
                                  "no squares are refused");
    }
}

}  // namespace

int main(int argc, char** argv) {
    test_frames();
    test_refusals();
    test_messages_of_threads();
    if (argc > 1) {
        test_threads(argv[1]);
    }
    std::printf(num_failures == 0 ? "passed\n" : "%d failed\n", num_failures);
    return num_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
