// What this processor's multipliers can do: multiply-adds a second of int8 and of float32, on all threads at once.
//
//     g++ -O3 -funroll-loops -pthread peak.cpp -o peak && ./peak THREADS SECONDS
//
// Each thread keeps sixteen independent accumulators in registers, so that neither memory nor latency limits it. Prints
// one line of JSON. x86-64 only; the widest instructions that the processor has are used.
#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int accumulators = 16;
constexpr int rounds = 4096;

using Clock = std::chrono::steady_clock;

/// One kernel: runs `rounds` times over all accumulators and returns a value that depends on them.
using Kernel = std::int32_t (*)();

__attribute__((target("avx512f,avx512vnni"))) std::int32_t int8_avx512_vnni() {
    __m512i sums[accumulators];
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    __m512i left = _mm512_set1_epi8(3);
    const __m512i right = _mm512_set1_epi8(5);
    for (int round = 0; round < rounds; ++round) {
        asm volatile("" : "+v"(left));
        for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, left, right);
    }
    __m512i total = sums[0];
    for (const auto& sum : sums) total = _mm512_add_epi32(total, sum);
    return _mm512_reduce_add_epi32(total);
}

__attribute__((target("avx2"))) std::int32_t int8_avx2() {
    __m256i sums[accumulators / 2];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    __m256i left = _mm256_set1_epi8(3);
    const __m256i right = _mm256_set1_epi8(5);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int round = 0; round < 2 * rounds; ++round) {
        asm volatile("" : "+x"(left));
        for (auto& sum : sums) {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(left, right), ones));
        }
    }
    __m256i total = sums[0];
    for (const auto& sum : sums) total = _mm256_add_epi32(total, sum);
    return _mm256_extract_epi32(total, 0);
}

__attribute__((target("avx512f"))) std::int32_t float_avx512() {
    __m512 sums[accumulators];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    __m512 left = _mm512_set1_ps(1.0F);
    const __m512 right = _mm512_set1_ps(1e-9F);
    for (int round = 0; round < rounds; ++round) {
        asm volatile("" : "+v"(left));
        for (auto& sum : sums) sum = _mm512_fmadd_ps(left, right, sum);
    }
    __m512 total = sums[0];
    for (const auto& sum : sums) total = _mm512_add_ps(total, sum);
    return static_cast<std::int32_t>(_mm512_reduce_add_ps(total));
}

__attribute__((target("avx2,fma"))) std::int32_t float_avx2() {
    __m256 sums[accumulators / 2];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    __m256 left = _mm256_set1_ps(1.0F);
    const __m256 right = _mm256_set1_ps(1e-9F);
    for (int round = 0; round < 2 * rounds; ++round) {
        asm volatile("" : "+x"(left));
        for (auto& sum : sums) sum = _mm256_fmadd_ps(left, right, sum);
    }
    __m256 total = sums[0];
    for (const auto& sum : sums) total = _mm256_add_ps(total, sum);
    return static_cast<std::int32_t>(_mm256_cvtss_f32(total));
}

struct Choice {
    const char* instructions;
    Kernel kernel;
    double per_call;  ///< Multiply-adds of one call.
};

Choice int8_choice() {
    if (__builtin_cpu_supports("avx512vnni")) {
        return {"AVX-512 VNNI", int8_avx512_vnni, 64.0 * accumulators * rounds};
    }
    return {"AVX2, 16-bit sums", int8_avx2, 32.0 * accumulators / 2 * 2 * rounds};
}

Choice float_choice() {
    if (__builtin_cpu_supports("avx512f")) {
        return {"AVX-512", float_avx512, 16.0 * accumulators * rounds};
    }
    return {"AVX2", float_avx2, 8.0 * accumulators / 2 * 2 * rounds};
}

/// Multiply-adds a second of all threads together.
double rate(const Choice& choice, unsigned num_threads, double seconds) {
    std::atomic<std::int64_t> calls{0};
    std::atomic<std::int32_t> kept{0};
    const auto started = Clock::now();
    const auto end = started + std::chrono::duration<double>(seconds);
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < num_threads; ++index) {
        threads.emplace_back([&] {
            std::int64_t own = 0;
            for (; Clock::now() < end; ++own) kept += choice.kernel();
            calls += own;
        });
    }
    for (auto& thread : threads) thread.join();
    const double elapsed = std::chrono::duration<double>(Clock::now() - started).count();
    return static_cast<double>(calls) * choice.per_call / elapsed;
}

}  // namespace

int main(int argc, char** argv) {
    const unsigned num_threads = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : std::thread::hardware_concurrency();
    const double seconds = argc > 2 ? std::atof(argv[2]) : 2.0;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        std::fprintf(stderr, "this processor has neither AVX2 nor FMA\n");
        return 3;
    }
    const Choice int8 = int8_choice();
    const Choice single = float_choice();
    rate(single, num_threads, 0.2);
    std::printf("{\"threads\": %u, \"int8\": {\"instructions\": \"%s\", \"multiply_adds_per_second\": %.6g}, "
                "\"fp32\": {\"instructions\": \"%s\", \"multiply_adds_per_second\": %.6g}}\n",
                num_threads, int8.instructions, rate(int8, num_threads, seconds), single.instructions,
                rate(single, num_threads, seconds));
    return 0;
}
