#include "bundle/seal.hpp"

#include "core/digest.hpp"

namespace alexnet_deploy {
namespace {

/// The end of the string that starts at this quotation mark.
std::size_t end_of_string(std::string_view json, std::size_t place) {
    for (++place; place < json.size() && json[place] != '"'; ++place) {
        place += json[place] == '\\';
    }
    return std::min(place + 1, json.size());
}

}  // namespace

std::string digest_of_record(std::string_view json) {
    std::string compact;
    int depth = 0;
    bool is_seal = false;  // Whether the next string is the record's own digest.
    for (std::size_t place = 0; place < json.size();) {
        const char letter = json[place];
        if (letter == '"') {
            const std::size_t end = end_of_string(json, place);
            const std::string_view text = json.substr(place, end - place);
            compact += is_seal ? std::string_view("\"\"") : text;
            // A key of the record itself follows its brace or a comma; a value never does.
            const char before = compact.size() > text.size() ? compact[compact.size() - text.size() - 1] : ' ';
            is_seal = !is_seal && depth == 1 && text == "\"sha256\"" && (before == '{' || before == ',');
            place = end;
            continue;
        }
        depth += (letter == '{' || letter == '[') - (letter == '}' || letter == ']');
        if (letter != ' ' && letter != '\n' && letter != '\r' && letter != '\t') {
            compact += letter;
        }
        ++place;
    }
    return sha256({reinterpret_cast<const std::uint8_t*>(compact.data()), compact.size()});
}

}  // namespace alexnet_deploy
