"""The check of a server: its answers over the wire against the golden vectors of a bundle."""

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.proof.golden_files import prove_files
from alexnet_deploy.engines.proof.parity import compare, prove
from alexnet_deploy.engines.proof.tolerances import engine_tolerance
from alexnet_deploy.engines.remote import RemoteClient, RemoteModel, engine_of
from alexnet_deploy.pipeline.check import CheckResult

_FILES_AT_ONCE = 8


def check_server(bundle: Bundle, model: RemoteModel, say: Say = say_nothing) -> CheckResult:
    """Ask a server for its answers to a bundle's golden images and files, and compare them.

    If the model takes image files too, the server decodes the golden files itself. Raises BackendError for a server
    that cannot be asked or has another contract, IntegrityError for a damaged bundle.
    """
    say("verifying the bundle's bytes")
    bundle.verify()
    not_done = ["the bundle's graph was not checked and no engine of this machine was run; leave out --url for that"]
    files = bundle.manifest.golden.files
    with RemoteClient(model) as client:
        say(f"asking {model.url}")
        with engine_of(client, bundle) as engine:
            rows = [*prove(engine, bundle), *prove_files(engine, bundle)]
            if client.encoded_input is None or not isinstance(files, GoldenFiles):
                not_done.append("the server decoded no image file: its model takes none, or the bundle holds none")
            else:
                say("sending the golden files")
                output = bundle.manifest.output
                held = [bundle.read(name) for name in files.names]
                parts = [
                    client.run_files(held[start : start + _FILES_AT_ONCE], output.name)
                    for start in range(0, len(held), _FILES_AT_ONCE)
                ]
                num_views = len(bundle.manifest.views.crops)
                row = compare(
                    bundle.read_tensor(files.expected),
                    np.concatenate(parts),
                    engine,
                    "files it decoded",
                    tolerance=engine_tolerance(bundle.manifest.precision, num_views, output),
                )
                is_int8 = bundle.manifest.precision == "int8"
                rows.append(msgspec.structs.replace(row, against="graph") if is_int8 else row)
    return CheckResult(rows=tuple(rows), problems=(), not_done=tuple(not_done))
