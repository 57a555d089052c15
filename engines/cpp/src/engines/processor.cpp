#include "engines/processor.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace alexnet_deploy {

bool has_vnni() {
#if defined(__x86_64__) || defined(_M_X64)
    const char* set = std::getenv("ONEDNN_MAX_CPU_ISA");
    std::string limit = set == nullptr ? "" : set;
    std::transform(limit.begin(), limit.end(), limit.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
    if (limit == "SSE41" || limit == "AVX" || limit == "AVX2" || limit == "AVX512_CORE") {
        return false;
    }
    std::ifstream processors("/proc/cpuinfo");
    for (std::string line; std::getline(processors, line);) {
        std::istringstream words(line);
        std::string word;
        if (line.rfind("flags", 0) != 0) {
            continue;
        }
        while (words >> word) {
            if (word == "avx512_vnni" || word == "avx_vnni" || word == "amx_int8") {
                return true;
            }
        }
    }
    return false;
#else
    return true;
#endif
}

}  // namespace alexnet_deploy
