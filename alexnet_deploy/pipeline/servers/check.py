"""The check of a server: its answers over the wire against the golden vectors of a bundle."""

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.engine import Engine
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
            rows: list[ParityRow] = []
            if client.takes_pixels:
                rows += [*prove(engine, bundle), *prove_files(engine, bundle)]
            else:
                not_done.append("no pixels were sent: the server's model takes image files only")
            if client.takes_files and isinstance(files, GoldenFiles):
                say("sending the golden files")
                rows.append(_prove_decoding(client, engine, bundle, files))
            else:
                not_done.append("the server decoded no image file: its model takes none, or the bundle holds none")
    return CheckResult(rows=tuple(rows), problems=(), not_done=tuple(not_done))


def _prove_decoding(client: RemoteClient, engine: Engine, bundle: Bundle, files: GoldenFiles) -> ParityRow:
    """Send the golden files, which the server decodes itself, and compare its answers."""
    manifest, output = bundle.manifest, bundle.manifest.output
    held = [bundle.read(name) for name in files.names]
    parts = [
        client.run_files(held[start : start + _FILES_AT_ONCE], output.name)
        for start in range(0, len(held), _FILES_AT_ONCE)
    ]
    tolerance = engine_tolerance(manifest.precision, len(manifest.views.crops), output)
    expected = bundle.read_tensor(files.expected)
    row = compare(expected, np.concatenate(parts), engine, "files it decoded", tolerance=tolerance)
    return msgspec.structs.replace(row, against="graph") if manifest.precision == "int8" else row
