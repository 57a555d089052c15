// A bundle with one damaged file is read, or is refused with one sentence; nothing else happens.
//
//     ALEXNET_DEPLOY_FUZZ_BUNDLE=my.bundle fuzz_bundles ...
//
// An input is the number of a file of the bundle, whether the digests are corrected (1) or not (0), and the content of
// the file. Without corrected digests, hardly any change of the manifest is looked at twice.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bundle/bundle.hpp"
#include "bundle/seal.hpp"
#include "core/digest.hpp"
#include "core/failure.hpp"
#include "fuzz.hpp"

namespace {

using namespace alexnet_deploy;
using namespace alexnet_deploy::fuzz;
using nlohmann::json;

namespace fs = std::filesystem;

constexpr std::size_t prefix_bytes = 2;
constexpr std::size_t most_bytes = 1 << 16;  // Of a file that is damaged: nothing but a hash reads the larger ones.
constexpr const char* manifest_name = "manifest.json";

File read_file(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

void write_file(const fs::path& path, const std::uint8_t* data, std::size_t size) {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

/// A copy of the bundle, in a folder of its own.
class Copy {
public:
    Copy() : folder_(make_folder()) {
        const char* sound = std::getenv("ALEXNET_DEPLOY_FUZZ_BUNDLE");
        if (sound == nullptr) {
            std::fprintf(stderr, "ALEXNET_DEPLOY_FUZZ_BUNDLE must name a bundle\n");
            std::exit(2);
        }
        fs::copy(sound, folder_, fs::copy_options::recursive);
        names_.emplace_back(manifest_name);
        const Bundle bundle(folder_);
        for (const auto& [name, entry] : bundle.manifest().files) {
            if (entry.num_bytes <= most_bytes) {
                names_.push_back(name);
            }
        }
        for (const std::string& name : names_) {
            sound_.push_back(read_file(folder_ / name));
        }
        manifest_ = json::parse(sound_.front());
    }
    ~Copy() {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    Copy(const Copy&) = delete;
    Copy& operator=(const Copy&) = delete;

    [[nodiscard]] std::size_t num_files() const { return names_.size(); }
    [[nodiscard]] const File& sound(std::size_t index) const { return sound_[index]; }
    [[nodiscard]] const fs::path& folder() const { return folder_; }

    void damage(std::size_t index, bool is_sealed, const std::uint8_t* data, std::size_t size) const {
        if (index == 0) {
            std::string text(reinterpret_cast<const char*>(data), size);
            if (is_sealed) {
                seal(text);
            }
            write_file(folder_ / manifest_name, reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
            return;
        }
        write_file(folder_ / names_[index], data, size);
        if (is_sealed) {
            json manifest = manifest_;
            manifest["files"][names_[index]] = {{"sha256", sha256({data, size})}, {"bytes", size}};
            std::string text = manifest.dump();
            seal(text);
            write_file(folder_ / manifest_name, reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        }
    }

    void restore(std::size_t damaged) const {
        for (const std::size_t index : {std::size_t{0}, damaged}) {
            write_file(folder_ / names_[index], sound_[index].data(), sound_[index].size());
        }
    }

private:
    static fs::path make_folder() {
        std::string name = fs::temp_directory_path() / "fuzz_bundles.XXXXXX";
        if (mkdtemp(name.data()) == nullptr) {
            std::perror("mkdtemp");
            std::exit(2);
        }
        return name;
    }

    /// Correct the record's own digest where it still stands.
    void seal(std::string& text) const {
        const std::string stated = manifest_.at("sha256");
        if (const std::size_t place = text.find(stated); place != std::string::npos) {
            text.replace(place, stated.size(), digest_of_record(text));
        }
    }

    fs::path folder_;
    std::vector<std::string> names_;
    std::vector<File> sound_;
    json manifest_;
};

const Copy& copy() {
    static const Copy only;
    return only;
}

/// Everything that this library reads from a bundle.
void read_all(const fs::path& folder) {
    const Bundle bundle(folder);
    const Golden& golden = bundle.manifest().golden;
    static_cast<void>(bundle.read_labels());
    static_cast<void>(bundle.read_tensor(golden.images));
    static_cast<void>(bundle.read_floats(golden.probabilities));
    if (golden.graph_probabilities) {
        static_cast<void>(bundle.read_floats(*golden.graph_probabilities));
    }
    if (golden.files) {
        static_cast<void>(bundle.read_tensor(golden.files->pixels));
        static_cast<void>(bundle.read_floats(golden.files->probabilities));
    }
    bundle.verify();
}

/// Put another value into a place of a JSON document, or remove or repeat one.
void change_value(json& document, Random& random) {
    json* place = &document;
    json* parent = nullptr;
    while (place->is_structured() && !place->empty() && (parent == nullptr || random.chance(85))) {
        parent = place;
        auto chosen = place->begin();
        std::advance(chosen, static_cast<std::ptrdiff_t>(random.below(place->size())));
        place = &*chosen;
    }
    const json values[] = {nullptr, true, 0, -1, 1, INT64_MAX, INT64_MIN, UINT64_MAX, 4294967296, 0.5, -1e308, "", "../a",
                           "a\nb", std::string(3000, 'a'), "uint8", "float32", json::array(), json::object(),
                           json::array({1, 2, 3, 4, 5, 6, 7, 8, 9}), json::array({UINT64_MAX, UINT64_MAX}),
                           json::array({0}), std::string("\0", 1)};
    switch (random.below(4)) {
        case 0:
            if (parent != nullptr && parent->is_object()) {
                for (auto entry = parent->begin(); entry != parent->end(); ++entry) {
                    if (&*entry == place) {
                        parent->erase(entry);
                        return;
                    }
                }
            }
            [[fallthrough]];
        case 1:
            if (parent != nullptr && parent->is_array()) {
                parent->push_back(json(*place));
                return;
            }
            [[fallthrough]];
        default: *place = values[random.below(std::size(values))];
    }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < prefix_bytes) {
        return 0;
    }
    const std::size_t index = data[0] % copy().num_files();
    copy().damage(index, data[1] % 2 == 1, data + prefix_bytes, size - prefix_bytes);
    try {
        read_all(copy().folder());
        ++outcomes()["ok"];
    } catch (const Failure& failure) {
        ++outcomes()[alexnet_deploy_status_name(failure.status())];
        const bool is_refusal = failure.status() == ALEXNET_DEPLOY_BUNDLE_ERROR ||
                                failure.status() == ALEXNET_DEPLOY_INTEGRITY_ERROR;
        if (!is_refusal || std::strchr(failure.what(), '\n') != nullptr) {
            std::fprintf(stderr, "%s: %s\n", alexnet_deploy_status_name(failure.status()), failure.what());
            std::abort();
        }
    }
    copy().restore(index);
    return 0;
}

std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned int seed) {
    Random random(seed);
    const std::size_t index = random.chance(60) ? 0 : random.below(copy().num_files());
    // Mostly from the sound file: the changes of many rounds leave nothing that can be read.
    const bool goes_on = size > prefix_bytes && random.chance(30);
    File file = goes_on ? File(data + prefix_bytes, data + size) : copy().sound(index);
    const auto number = static_cast<std::uint8_t>(goes_on ? data[0] : index);
    json document = json::parse(file, nullptr, false);
    for (std::size_t left = 1 + random.below(3); left > 0; --left) {
        if (document.is_structured() && random.chance(60)) {
            change_value(document, random);
            const std::string text = document.dump(2, ' ', false, json::error_handler_t::replace);
            file.assign(text.begin(), text.end());
        } else {
            change_bytes(file, random);
            document = json::parse(file, nullptr, false);
        }
    }
    file.insert(file.begin(), {number, static_cast<std::uint8_t>(random.chance(70))});
    file.resize(std::min(file.size(), max_size));
    std::copy(file.begin(), file.end(), data);
    return file.size();
}
