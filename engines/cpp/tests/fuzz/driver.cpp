// Runs a fuzz target on seeded mutations where there is no libFuzzer; seed and number alone determine a mutation.
//
//     fuzz_NAME [--seed S] [--first N] [--runs COUNT] [--seconds MOST] [--most-mib RSS] FOLDER...
//
// One line of JSON says what was found. A crash, a hang or too much memory ends the program with its number: repeat it
// with --first NUMBER --runs 1.
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "fuzz.hpp"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using namespace alexnet_deploy::fuzz;

constexpr std::size_t max_input_bytes = 1 << 20;
constexpr int most_seconds = 10;  // Of CPU time, of one run.

volatile std::sig_atomic_t is_in_run = 0;
char name_of_run[64];

/// Say which run it was; only what a signal handler may call.
void tell_run() {
    if (is_in_run != 0) {
        static_cast<void>(!::write(STDERR_FILENO, name_of_run, std::strlen(name_of_run)));
    }
}

void end_on_signal(int number) {
    tell_run();
    constexpr char slow[] = "took too much CPU time\n";
    if (number == SIGPROF) {
        static_cast<void>(!::write(STDERR_FILENO, slow, sizeof slow - 1));
    }
    ::_exit(1);
}

void set_alarm(int seconds) {
    const itimerval timer{{0, 0}, {seconds, 0}};
    ::setitimer(ITIMER_PROF, &timer, nullptr);
}

struct Settings {
    unsigned long seed = 1, first = 0, runs = 1000;
    double seconds = 1e9;
    long most_mib = 1024;
    std::vector<File> files;
};

void read_folder(const char* folder, std::vector<File>& files) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
        if (entry.is_regular_file() && entry.file_size() <= max_input_bytes / 2) {
            paths.push_back(entry.path());
        }
    }
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) {
        std::ifstream stream(path, std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
}

Settings settings_of(int argc, char** argv) {
    Settings settings;
    for (int index = 1; index < argc; ++index) {
        const std::string name = argv[index];
        if (name.substr(0, 2) != "--") {
            read_folder(argv[index], settings.files);
            continue;
        }
        const char* value = ++index < argc ? argv[index] : "";
        if (name == "--seed") {
            settings.seed = std::strtoul(value, nullptr, 10);
        } else if (name == "--first") {
            settings.first = std::strtoul(value, nullptr, 10);
        } else if (name == "--runs") {
            settings.runs = std::strtoul(value, nullptr, 10);
        } else if (name == "--seconds") {
            settings.seconds = std::strtod(value, nullptr);
        } else if (name == "--most-mib") {
            settings.most_mib = std::strtol(value, nullptr, 10);
        } else {
            std::fprintf(stderr, "%s: no such option\n", name.c_str());
            std::exit(2);
        }
    }
    return settings;
}

File mutation(const Settings& settings, unsigned long number) {
    Random random(settings.seed << 40 | number);
    const auto any = [&]() -> const File& { return settings.files[random.below(settings.files.size())]; };
    File file;
    if (!settings.files.empty()) {
        file = any();
        if (random.chance(10)) {
            const File& other = any();
            file.resize(random.below(file.size() + 1));
            file.insert(file.end(), other.end() - static_cast<std::ptrdiff_t>(random.below(other.size() + 1)), other.end());
        }
    }
    const std::size_t size = file.size();
    file.resize(max_input_bytes);
    file.resize(LLVMFuzzerCustomMutator(file.data(), std::min(size, max_input_bytes), max_input_bytes,
                                        static_cast<unsigned int>(random.below(1U << 31))));
    return file;
}

double cpu_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

/// Not getrusage: there a child's peak is at least the memory of the process that started it.
long peak_mib() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmHWM:", 0) == 0) {
            return std::stol(line.substr(6)) / 1024;
        }
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const Settings settings = settings_of(argc, argv);
    if (__sanitizer_set_death_callback != nullptr) {
        __sanitizer_set_death_callback(tell_run);
    }
    for (const int number : {SIGABRT, SIGPROF}) {
        std::signal(number, end_on_signal);
    }
    const auto begun = std::chrono::steady_clock::now();
    const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(); };
    double longest_ms = 0;
    unsigned long longest = 0, number = settings.first;
    for (; number < settings.first + settings.runs && seconds() < settings.seconds; ++number) {
        std::snprintf(name_of_run, sizeof name_of_run, "run %lu of seed %lu\n", number, settings.seed);
        is_in_run = 1;
        const File file = mutation(settings, number);
        // In a block of its own size, so that AddressSanitizer sees a read beyond its end.
        const std::unique_ptr<std::uint8_t[]> input(new std::uint8_t[file.size()]);
        std::copy(file.begin(), file.end(), input.get());
        set_alarm(most_seconds);
        const double start = cpu_ms();
        LLVMFuzzerTestOneInput(input.get(), file.size());
        const double took = cpu_ms() - start;
        set_alarm(0);
        if (took > longest_ms) {
            longest_ms = took, longest = number;
        }
        if (peak_mib() > settings.most_mib) {
            std::fprintf(stderr, "%speak memory is %ld MiB, the limit is %ld\n", name_of_run, peak_mib(), settings.most_mib);
            return 1;
        }
        is_in_run = 0;
    }
    std::printf("{\"seed\": %lu, \"runs\": %lu, \"seconds\": %.1f, \"longest_ms\": %.1f, \"longest_run\": %lu, ",
                settings.seed, number - settings.first, seconds(), longest_ms, longest);
    std::printf("\"peak_mib\": %ld, \"outcomes\": {", peak_mib());
    const char* separator = "";
    for (const auto& [name, count] : outcomes()) {
        std::printf("%s\"%s\": %ld", separator, name.c_str(), count);
        separator = ", ";
    }
    std::printf("}}\n");
    return 0;
}
