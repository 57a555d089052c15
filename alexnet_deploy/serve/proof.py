"""Bundles that are proved in the process that serves them."""

from dataclasses import dataclass

from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import ParityError
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.proof.golden_files import prove_decoder, prove_files
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.serve.settings import ModelPlace, ServerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """An open bundle whose engine and decoder gave the golden answers in this process."""

    place: ModelPlace
    bundle: Bundle
    engine: Engine
    rows: tuple[ParityRow, ...]
    """How far the engine was from the golden vectors and files."""


def open_proved(place: ModelPlace, request: ServerRequest, say: Say) -> Proved:
    """Open a bundle and prove it: its bytes, its engine on the golden vectors and files, this program's decoder.

    Raises ParityError where one of them differs, and what open_bundle, Bundle.verify and open_engine raise.
    """
    bundle = open_bundle(place.bundle)
    say(f"verifying {place.bundle}")
    bundle.verify()
    engine = open_engine(bundle, request.backend, request.device, request.threads, tuned_for="throughput")
    try:
        say(f"proving {place.bundle} on {engine.info.backend}")
        rows = (*prove(engine, bundle), *prove_files(engine, bundle))
        failures = [f"{row.images}: {failure}" for row in rows for failure in row.failures]
        if isinstance(bundle.manifest.golden.files, GoldenFiles):
            failures += prove_decoder(bundle).failures
        if failures:
            raise ParityError(f"{place.bundle}: not served: {'; '.join(failures)}")
    except BaseException:
        engine.close()
        raise
    return Proved(place=place, bundle=bundle, engine=engine, rows=rows)
