"""TensorRT plans: added to a bundle during export, or to a new copy of an existing bundle."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from alexnet_deploy.core.bundle.manifest import Manifest, ParityRow
from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, StagedBundle, publishing
from alexnet_deploy.core.bundle.vocabulary import PLAN_BACKENDS, PlanBackend
from alexnet_deploy.core.errors import BackendError, ParityError, UsageError
from alexnet_deploy.core.process.installation import install_command
from alexnet_deploy.engines.graph_guard import refuse_foreign_graph
from alexnet_deploy.engines.proof.golden_files import prove_files
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.tensorrt.build import NOBODY, BuildObserver, build_plan, default_timing_cache, refuse_build
from alexnet_deploy.engines.tensorrt.device_memory import find_gpu
from alexnet_deploy.engines.tensorrt.library import is_installed
from alexnet_deploy.engines.tensorrt.plan import open_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Options of a plan to build."""

    backend: PlanBackend
    profile: Profile = field(default_factory=Profile)
    options: PlanOptions = field(default_factory=PlanOptions)
    timing_cache: Path | None = None
    """Timing cache file; None: the user's default for this library and GPU, if the library has one."""


def backend_that_builds_here() -> PlanBackend | None:
    """Return the default library to build with: an installed one if this machine has a GPU, else None."""
    installed = [backend for backend in PLAN_BACKENDS if is_installed(backend)]
    return installed[0] if installed and find_gpu() is not None else None


def why_no_plan() -> str:
    """Return in one line why no plan was built by default, and how to build one."""
    if is_installed("tensorrt-rtx"):
        return "no GPU found: skipped the TensorRT plan; --plan tensorrt-rtx builds one for GPUs of Ampere and later"
    if is_installed("tensorrt"):
        return "no GPU found: skipped the TensorRT plan; `alexnet-deploy build --plan tensorrt` builds one on a GPU"
    return (
        f"no TensorRT library found: skipped the TensorRT plan; `{install_command('rtx')}` and "
        "--plan tensorrt-rtx build one, even without a GPU"
    )


def add_plan(
    stage: StagedBundle,
    manifest: Manifest,
    graph: bytes,
    request: PlanRequest,
    observer: BuildObserver = NOBODY,
) -> Manifest:
    """Build a plan of the staged bundle's graph into the bundle; return the manifest with its record and proof.

    A plan that can run on this machine runs the golden images at once; otherwise its proof stays pending. Raises what
    build_plan raises, and ParityError for a plan that disagrees with the golden vectors.
    """
    observer.say(f"building a plan with {request.backend}")
    built = build_plan(
        graph,
        request.backend,
        request.profile,
        request.options,
        timing_cache=request.timing_cache or default_timing_cache(request.backend),
        observer=observer,
    )
    stage.write(built.record.file, built.data)
    replaced = [record for record in manifest.plans if record.file == built.record.file]
    others = tuple(record for record in manifest.plans if record not in replaced)
    is_stale = {(record.backend, record.version, record.target) for record in replaced}
    rows = tuple(row for row in manifest.parity if (row.backend, row.version, row.device) not in is_stale)
    pending = msgspec.structs.replace(manifest, plans=(*others, built.record), parity=rows)
    proved = msgspec.structs.replace(pending, plans=(*others, msgspec.structs.replace(built.record, proof="proved")))
    observer.say(f"proving {built.record.file}")
    try:
        proof = _proof(stage.candidate(proved), built.record)
    except BackendError as error:
        # The plan may be for other GPUs than this machine's, or the machine has none: it is proved on first opening.
        observer.say(f"proof pending: {_without(stage.path, error)}")
        return pending
    return msgspec.structs.replace(proved, parity=(*rows, *proof))


def _without(folder: Path, error: Exception) -> str:
    """Return the error message without the path of the hidden staging folder."""
    return str(error).replace(f"{folder}/", "")


def _proof(bundle: Bundle, record: PlanRecord) -> tuple[ParityRow, ...]:
    with open_plan(bundle, record.backend, record.file) as engine:
        rows = (*prove(engine, bundle), *prove_files(engine, bundle))
    if failed := [reason for row in rows for reason in row.failures]:
        raise ParityError(f"nothing was published: {record.file}: {'; '.join(failed)}")
    return rows


def build(
    bundle: Bundle,
    out: Path,
    request: PlanRequest,
    *,
    force: bool = False,
    observer: BuildObserver = NOBODY,
) -> Bundle:
    """Publish a new bundle at `out`: a copy of `bundle` with a plan that is built on this machine.

    The report stays that of the export. Raises what add_plan raises, UsageError where `out` exists, BundleError where
    it cannot be written, IntegrityError where the bundle's bytes changed since publication.
    """
    if out.resolve() == bundle.path.resolve():
        raise UsageError(f"{out}: is the bundle itself, and bundles are immutable; choose another --out")
    refuse_build(request.backend, request.options, request.timing_cache)
    with publishing(out, force=force, say=observer.say) as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        graph = bundle.read(GRAPH)
        refuse_foreign_graph(graph, bundle.manifest, str(bundle.path))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = msgspec.structs.replace(bundle.manifest, created=created)
        manifest = add_plan(stage, manifest, graph, request, observer)
        sealed = stage.seal(manifest)
    return Bundle(path=out, manifest=sealed.manifest, sha256=sealed.sha256)


def plan_problems(bundle: Bundle) -> list[str]:
    """Return what is wrong with a bundle's plans, as far as it shows without running them.

    A plan contains the digest of its graph as the network's name, in plain text: see build_plan. Raises
    IntegrityError for bytes that changed since publication.
    """
    entry = bundle.manifest.files.get(GRAPH)
    problems = []
    for record in bundle.manifest.plans:
        if entry is None or record.graph_sha256 != entry.sha256:
            problems.append(f"{record.file}: was built from another graph, {record.graph_sha256[:12]}..., not {GRAPH}")
        elif record.file not in bundle.manifest.files:
            problems.append(f"{record.file}: is not in the manifest's files")
        elif record.graph_sha256.encode() not in bundle.read(record.file):
            problems.append(f"{record.file}: its bytes do not contain {GRAPH}'s digest; it is not a plan of this graph")
    return problems
