// Decodes image files to the network's pixels: for `alexnet-deploy check --pixels "./decode"`.
//
//     decode [--warp] <paths        one path a line; writes 256 x 256 x 3 bytes for each
#include <alexnet_deploy.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
    const bool warps = argc > 1 && std::strcmp(argv[1], "--warp") == 0;
    std::vector<unsigned char> square(ALEXNET_DEPLOY_SQUARE_BYTES);
    for (std::string path; std::getline(std::cin, path);) {
        const auto status = alexnet_deploy_decode_file(
            path.c_str(), warps ? ALEXNET_DEPLOY_WARP : ALEXNET_DEPLOY_SHORTER_SIDE, nullptr, square.data());
        if (status != ALEXNET_DEPLOY_OK) {
            std::cerr << path << ": " << alexnet_deploy_status_name(status) << ": " << alexnet_deploy_last_error()
                      << '\n';
            return 3;
        }
        std::fwrite(square.data(), 1, square.size(), stdout);
    }
    return 0;
}
