// classify IMAGE...: the five most probable classes of each image file.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <vector>

#include "alexnet_deploy.h"

int main(int argc, char** argv) {
    alexnet_deploy_engine* engine = nullptr;
    if (alexnet_deploy_open(BUNDLE, nullptr, &engine) != ALEXNET_DEPLOY_OK) {
        std::fprintf(stderr, "error: %s\n", alexnet_deploy_last_error());
        return 3;
    }
    std::vector<float> probabilities(alexnet_deploy_num_classes(engine));
    std::vector<std::size_t> order(probabilities.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto num_shown = static_cast<std::ptrdiff_t>(std::min<std::size_t>(5, order.size()));
    int num_failed = 0;
    for (int i = 1; i < argc; ++i) {
        const auto status = alexnet_deploy_classify_file(engine, argv[i], probabilities.data(), probabilities.size());
        if (status != ALEXNET_DEPLOY_OK) {
            std::printf("%s  -- %s: %s\n", argv[i], alexnet_deploy_status_name(status), alexnet_deploy_last_error());
            ++num_failed;
            continue;
        }
        std::partial_sort(order.begin(), order.begin() + num_shown, order.end(),
                          [&](std::size_t a, std::size_t b) { return probabilities[a] > probabilities[b]; });
        std::printf("%s", argv[i]);
        for (auto place = order.begin(); place != order.begin() + num_shown; ++place) {
            std::printf("  %.2f%% %s", 100.0 * static_cast<double>(probabilities[*place]),
                        alexnet_deploy_class_name(engine, *place));
        }
        std::printf("\n");
    }
    alexnet_deploy_close(engine);
    return num_failed == 0 ? 0 : 1;
}
