// The proof of an engine from its bundle alone: golden images and golden files.
#pragma once

#include "alexnet_deploy.h"
#include "engines/engine.hpp"

namespace alexnet_deploy {

/// Run the golden images and files and compare the results with the stored ones. The tolerances are this program's, as in
/// engines/proof/parity.py: those in the manifest are only a record. Throws Failure: parity_error where they differ by
/// more, integrity_error for damaged vectors.
void prove(Engine& engine, alexnet_deploy_proof& proof);

}  // namespace alexnet_deploy
