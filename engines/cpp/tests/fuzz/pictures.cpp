// Any bytes decode to a square, or are refused with the code of an image error; nothing else happens.
//
//     fuzz_pictures ... FOLDER        folders of JPEG and PNG files, as golden/files of a bundle
#include "fuzz.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "alexnet_deploy.h"

using namespace alexnet_deploy::fuzz;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::vector<std::uint8_t> square(ALEXNET_DEPLOY_SQUARE_BYTES);
    const alexnet_deploy_limits limits{1 << 22, 0, 0};
    const alexnet_deploy_image_policy policy{size % 2 == 0 ? ALEXNET_DEPLOY_SHORTER_SIDE : ALEXNET_DEPLOY_WARP,
                                             size % 4 < 2 ? ALEXNET_DEPLOY_EXACT : ALEXNET_DEPLOY_SCALED};
    const alexnet_deploy_status status = alexnet_deploy_decode(data, size, policy, &limits, square.data());
    ++outcomes()[alexnet_deploy_status_name(status)];
    if (status >= ALEXNET_DEPLOY_USAGE_ERROR) {
        std::fprintf(stderr, "%s: %s\n", alexnet_deploy_status_name(status), alexnet_deploy_last_error());
        std::abort();
    }
    return 0;
}

std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned int seed) {
    Random random(seed);
    File file(data, data + size);
    // Often more than one change: code behind a first check is only reached by a second change.
    for (std::size_t left = 1 + random.below(3); left > 0; --left) {
        random.chance(25) ? change_pieces(file, random) : change_bytes(file, random);
    }
    if (random.chance(70)) {
        seal_png(file);
    }
    file.resize(std::min(file.size(), max_size));
    std::copy(file.begin(), file.end(), data);
    return file.size();
}
