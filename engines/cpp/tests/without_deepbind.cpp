// TBB, which OpenVINO runs on, loads a library of its own with RTLD_DEEPBIND, and sanitizers refuse that flag.
// https://github.com/google/sanitizers/issues/611
#include <dlfcn.h>

extern "C" __attribute__((visibility("default"))) void* dlopen(const char* path, int flags) {
    using Open = void* (*)(const char*, int);
    static const Open open = reinterpret_cast<Open>(dlsym(RTLD_NEXT, "dlopen"));
    return open(path, flags & ~RTLD_DEEPBIND);
}
