// Decodes image files to the network's pixels: for `alexnet-deploy check --pixels "./decode"`.
//
//     decode [--warp] [--scaled] <paths        one path a line; writes 256 x 256 x 3 bytes for each
#include <alexnet_deploy.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
    alexnet_deploy_image_policy policy{ALEXNET_DEPLOY_SHORTER_SIDE, ALEXNET_DEPLOY_EXACT};
    for (int index = 1; index < argc; ++index) {
        if (std::strcmp(argv[index], "--warp") == 0) {
            policy.resize = ALEXNET_DEPLOY_WARP;
        } else if (std::strcmp(argv[index], "--scaled") == 0) {
            policy.decoding = ALEXNET_DEPLOY_SCALED;
        } else {
            std::cerr << argv[index] << ": not an option\n";
            return 2;
        }
    }
    std::vector<unsigned char> square(ALEXNET_DEPLOY_SQUARE_BYTES);
    for (std::string path; std::getline(std::cin, path);) {
        const auto status = alexnet_deploy_decode_file(path.c_str(), policy, nullptr, square.data());
        if (status != ALEXNET_DEPLOY_OK) {
            std::cerr << path << ": " << alexnet_deploy_status_name(status) << ": " << alexnet_deploy_last_error()
                      << '\n';
            return 3;
        }
        std::fwrite(square.data(), 1, square.size(), stdout);
    }
    return 0;
}
