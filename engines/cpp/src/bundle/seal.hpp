// The digest of a sealed record: JSON whose field `sha256` holds the digest of the record with this field empty.
#pragma once

#include <string>
#include <string_view>

namespace alexnet_deploy {

/// The digest that a record should hold; `json` is valid JSON, an object.
///
/// Our writer indents the encoded record, so leaving out the spaces gives the encoded record back. Python encodes the
/// decoded record instead; both agree on every file that our writer wrote.
std::string digest_of_record(std::string_view json);

}  // namespace alexnet_deploy
