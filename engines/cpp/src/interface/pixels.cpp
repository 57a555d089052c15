// The C interface to pixels: frames and files to squares.
#include <string>

#include "alexnet_deploy.h"
#include "interface/guard.hpp"
#include "images/decode.hpp"
#include "images/square.hpp"
#include "interface/requests.hpp"

using namespace alexnet_deploy;

alexnet_deploy_status alexnet_deploy_to_square(const alexnet_deploy_frame* frame, alexnet_deploy_resize resize,
                                               std::uint8_t* square) {
    return guarded([&] { to_square(view_of(required(frame, "frame")), checked(resize), &required(square, "square")); });
}

alexnet_deploy_status alexnet_deploy_decode(const void* data, std::size_t num_bytes,
                                            alexnet_deploy_image_policy policy, const alexnet_deploy_limits* limits,
                                            std::uint8_t* square) {
    return guarded([&] {
        decode_image(bytes_of(data, num_bytes), checked(policy), limits_of(limits), &required(square, "square"));
    });
}

alexnet_deploy_status alexnet_deploy_decode_file(const char* path, alexnet_deploy_image_policy policy,
                                                 const alexnet_deploy_limits* limits, std::uint8_t* square) {
    return guarded([&] {
        const Limits bounds = limits_of(limits);
        decode_image(read_image_file(&required(path, "path"), bounds), checked(policy), bounds,
                     &required(square, "square"));
    });
}
