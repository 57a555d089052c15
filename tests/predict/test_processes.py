"""A predictor across processes: a fork cannot use it and gets an error instead, and nothing hangs."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import HANGS_AFTER_S
from networks import republished

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError, BundleError, ImageError, ImageErrorCode, IntegrityError
from alexnet_deploy.core.model.labels import encode_labels
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.registry import BACKENDS, Backend
from alexnet_deploy.predict.predictor import Predictor, load

FORKED = Path(__file__).parents[1] / "programs/forked.py"

OPENED_ELSEWHERE = re.compile(
    r"\w+: this engine was opened in process \d+ and does not work in its fork, process \d+; start the process "
    r'with multiprocessing\.get_context\("spawn"\), or load the bundle only after the fork'
)


def forked(bundle: Bundle, images: Path, backend: str, case: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, FORKED, bundle.path, images / "a.jpg", backend, *case.split()],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


@pytest.mark.parametrize("case", ["each call", "multiprocessing"])
def test_in_a_fork_each_call_raises_and_close_returns(
    case: str, backend: Backend, bundle: Bundle, images: Path
) -> None:
    *calls, closed, ended, parent = forked(bundle, images, backend, case)
    assert [call.split()[0] for call in calls] == ["run", "classify", "predict"]
    for call in calls:
        name, _, said = call.partition(" ")
        assert OPENED_ELSEWHERE.fullmatch(said), name
        assert said.startswith(f"{backend}: ")
    assert [closed, ended, parent] == ["closed", "exit 0", "parent continues"]


def test_a_library_loaded_by_the_parent_is_refused_in_its_fork(backend: Backend, bundle: Bundle, images: Path) -> None:
    said, ended, parent = forked(bundle, images, backend, "load again")
    assert said == (
        f"{backend}: was loaded before this process was forked and does not work in a fork; start the process with "
        'multiprocessing.get_context("spawn"), or load the bundle only after the fork'
    )
    assert [ended, parent] == ["exit 0", "parent continues"]


def test_a_fork_that_does_nothing_ends(backend: Backend, bundle: Bundle, images: Path) -> None:
    assert forked(bundle, images, backend, "nothing") == ["exit 0", "parent continues"]


def test_a_fork_during_iteration_gets_no_more_predictions(backend: Backend, bundle: Bundle, images: Path) -> None:
    said, ended, rest, parent = forked(bundle, images, backend, "iterator")
    assert OPENED_ELSEWHERE.fullmatch(said)
    assert [ended, rest, parent] == ["exit 0", "99", "parent continues"]


def test_a_fork_during_a_run_does_not_wait(backend: Backend, bundle: Bundle, images: Path) -> None:
    said, ended, closed, parent = forked(bundle, images, backend, "busy")
    assert OPENED_ELSEWHERE.fullmatch(said)
    assert [ended, closed, parent] == ["exit 0", "exit 0", "parent continues"]


def test_a_process_that_forks_first_and_loads_then_works(backend: Backend, bundle: Bundle, images: Path) -> None:
    label, ended = forked(bundle, images, backend, "fork first")
    assert label in bundle.labels
    assert ended == "exit 0"


def test_a_pool_by_spawn_accepts_a_predictor(backend: Backend, bundle: Bundle, images: Path) -> None:
    assert forked(bundle, images, backend, "pool by spawn") == ["True", "parent continues"]


def test_a_pool_by_fork_raises_with_the_reason(backend: Backend, bundle: Bundle, images: Path) -> None:
    said, parent = forked(bundle, images, backend, "pool by fork")
    assert said.startswith(f"{backend}: was loaded before this process was forked and does not work in a fork; ")
    assert parent == "parent continues"


def test_a_map_by_fork_raises_with_the_reason(backend: Backend, bundle: Bundle, images: Path) -> None:
    """multiprocessing.Pool loses a task that cannot be unpickled, and map() never returns."""
    said, parent = forked(bundle, images, backend, "map by fork")
    assert said.startswith(f"{backend}: was loaded before this process was forked and does not work in a fork; ")
    assert parent == "parent continues"


def test_a_map_by_spawn_opens_the_bundle_once(bundle: Bundle, images: Path) -> None:
    assert forked(bundle, images, "onnxruntime", "map by spawn") == ["1", "parent continues"]


# Pickles


def test_a_pickle_opens_the_same_engine(backend: Backend, bundle: Bundle, images: Path) -> None:
    with load(bundle.path, backend, "cpu", 1, "latency") as predictor:
        data = pickle.dumps(predictor)
        with pickle.loads(data) as again:
            assert again.info == predictor.info
            assert again.classify(images / "a.jpg") == predictor.classify(images / "a.jpg")
    assert len(data) < 2000


def test_a_pickle_keeps_the_backend_that_auto_chose(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy.engines import engine

    monkeypatch.setattr(engine, "installed_backends", lambda: ("onnxruntime",))
    with load(bundle.path) as predictor:
        data = pickle.dumps(predictor)
    monkeypatch.undo()
    with pickle.loads(data) as again:
        assert again.info.backend == "onnxruntime"


def test_a_pickle_does_not_depend_on_the_working_folder(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.path, tmp_path / "a.bundle")
    monkeypatch.chdir(tmp_path)
    with load("a.bundle", "onnxruntime") as predictor:
        data = pickle.dumps(predictor)
    monkeypatch.chdir("/")
    with pickle.loads(data) as again:
        assert again.bundle.sha256 == bundle.sha256


def test_another_bundle_at_the_same_path_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "a.bundle"
    shutil.copytree(bundle.path, place)
    with load(place, "onnxruntime") as predictor:
        data = pickle.dumps(predictor)
    again = pickle.loads(data)
    shutil.rmtree(place)
    with pytest.raises(BundleError, match="there is no such bundle"):
        again.classify(b"")
    other = republished(bundle, place, {"labels.txt": encode_labels(bundle.labels[::-1])})
    with pytest.raises(
        IntegrityError,
        match=f"its digest is {other.sha256[:12]}.*, but {bundle.sha256[:12]}",
    ):
        again.classify(b"")


def test_predictors_unpickled_in_one_process_share_an_engine(bundle: Bundle) -> None:
    with load(bundle.path, "onnxruntime") as predictor:
        data = pickle.dumps(predictor)
        one, other = pickle.loads(data), pickle.loads(pickle.dumps(pickle.loads(data)))
        assert one.labels == other.labels == bundle.labels
        assert one._engine is other._engine
        assert one._engine is not predictor._engine
        one.close()
        with pytest.raises(BackendError, match="this engine is closed"):
            other.run(np.zeros((1, 256, 256, 3), np.uint8))
        with pickle.loads(data) as reopened:
            assert reopened.run(np.zeros((1, 256, 256, 3), np.uint8)).shape == (1, len(bundle.labels))
    pickle.loads(data).close()


def test_an_image_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ImageError(ImageErrorCode.TRUNCATED, "it ends early")))
    assert (error.code, str(error)) == (ImageErrorCode.TRUNCATED, "it ends early")


def test_a_predictor_not_opened_by_load_cannot_be_pickled(bundle: Bundle) -> None:
    with (
        Predictor(bundle, open_engine(bundle, "onnxruntime")) as predictor,
        pytest.raises(
            TypeError,
            match=r"this Predictor was not opened by load\(\), so it cannot be pickled; open it with load\(\)",
        ),
    ):
        pickle.dumps(predictor)


# Systems


def test_windows_is_refused_in_one_sentence() -> None:
    program = (
        "import sys; sys.platform = 'win32'\ntry:\n    import alexnet_deploy\nexcept ImportError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8")
    assert done.stdout == (
        "alexnet-deploy runs on Linux and macOS; on Windows use it in WSL, the Windows Subsystem for Linux\n"
    )
