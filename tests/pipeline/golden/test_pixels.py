"""`check --pixels`: each wrong program is named, and the right one passes."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import wrong_programs
from commands import Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.golden import files
from alexnet_deploy.core.golden.files import golden_files
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP, ImagePolicy
from alexnet_deploy.pipeline.golden import pixels
from alexnet_deploy.pipeline.golden.faults import FAULTS, Source
from alexnet_deploy.pipeline.golden.pixels import check_program, diagnose

PICTURES = Path(files.__file__).with_name("pictures")
COMPUTED: dict[tuple[str, str], np.ndarray | None] = {}


def program(fault: str) -> str:
    return shlex.join([sys.executable, wrong_programs.__file__, fault])


@pytest.fixture(autouse=True)
def computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tests of this file share the pixels of the faults: they are half of the work."""

    def once(name: str) -> Callable[[Source], np.ndarray | None]:
        def decode(source: Source) -> np.ndarray | None:
            key = name, str(source.policy) + sha256(source.expected.tobytes() + source.stored.tobytes())
            if key not in COMPUTED:
                COMPUTED[key] = FAULTS[name](source)
            return COMPUTED[key]

        return decode

    monkeypatch.setattr(pixels, "FAULTS", {name: once(name) for name in FAULTS})


def diagnosis(program: str, policy: ImagePolicy = SHORTER_SIDE) -> list[str]:
    """What is said of a program, run in this process."""
    sources = {file.name: Source.of(file.data, policy, file.pixels) for file in golden_files(policy)}
    return list(diagnose(sources, {name: getattr(wrong_programs, program)(str(PICTURES / name)) for name in sources}))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("linear", "INTER_LINEAR: cropped, then resized without antialiasing: 13 of 19 files"),
        ("warp", "warp: the whole image is resized, not its central square: 14 of 19 files"),
        ("no_exif", "EXIF orientation is ignored: 7 of 19 files (exif2.jpg, exif3.jpg, exif4.jpg, exif5.jpg, ...)"),
        ("bgr", "red and blue are swapped (BGR): 17 of 19 files"),
        ("crop", "crop: off by one, its offset rounded up: 4 of 19 files"),
        ("gamma", "gamma: resized in linear light: 12 of 19 files"),
        ("limited", "limited-range YUV: luma of 0..255 is read as 16..235: 13 of 19 files"),
    ],
)
def test_a_wrong_program_is_named(fault: str, said: str, bundle: Bundle) -> None:
    row = check_program(bundle, program(fault))
    assert not row.passed
    assert row.num_exact < row.num_files == 19
    first, *_ = row.failures
    assert first.startswith(said), row.failures


def test_the_right_program_passes(bundle: Bundle) -> None:
    row = check_program(bundle, program("right"))
    assert row.passed
    assert (row.num_exact, row.max_error, row.failures) == (19, 0, ())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("area", ["INTER_AREA: the mean of the covered area instead of bilinear: 13 of 19 files"]),
        ("resized_first", ["crop: resized first, its longer side rounded down, and cropped there: 5 of 19 files"]),
        ("darker", ["gamma: the pixels are darkened by an exponent of 2.2: all 19 files"]),
        ("black", ["transparency is composited on black, not on white: 2 of 19 files (palette.png, alpha.png)"]),
        ("cut", ["16-bit grey is cut to its high byte, not rounded: 1 of 19 files (grey16.png) differs"]),
        ("one_off", ["rounding or another decoder's arithmetic: all 19 files differ by 0.99 on average and 1 at most"]),
        (
            "two_faults",
            ["EXIF orientation is ignored: 7 of 19", "transparency is composited on black, not on white: 2 of 19"],
        ),
        (
            "opencv",
            [
                "transparency is dropped, so that hidden colours show: 2 of 19 files (palette.png, alpha.png)",
                "INTER_LINEAR: cropped, then resized without antialiasing: 13 of 19 files",
                "16-bit grey is cut to its high byte, not rounded: 1 of 19 files (grey16.png)",
                "rounding or another decoder's arithmetic: 1 of 19 files (cmyk.jpg)",
            ],
        ),
    ],
)
def test_other_faults_are_named_and_those_of_different_files_apart(fault: str, said: list[str]) -> None:
    found = diagnosis(fault)
    assert len(found) == len(said), found
    assert [line for line, wanted in zip(found, said, strict=True) if not line.startswith(wanted)] == []


def test_a_fault_that_is_not_known_is_not_guessed() -> None:
    found = diagnosis("posterized")
    assert len(found) == 19
    for line in found:
        assert line.startswith("unknown difference: ")
    (line,) = [line for line in found if "baseline.jpg" in line]
    assert line.endswith(" on average and 31 at most")


def test_under_warp_the_other_policy_is_the_fault() -> None:
    assert diagnosis("right_warp", WARP) == []
    (line,) = diagnosis("right", WARP)
    assert line.startswith("shorter-side: only the central square is resized, not the whole image: 14 of 19 files")


SCALED = ImagePolicy(resize="shorter-side", decode="scaled")

# The faults that do not exist under a resize policy.
ABSENT: dict[str, set[str]] = {
    "shorter-side": {"shorter-side: only the central square is resized, not the whole image"},
    "warp": {name for name in FAULTS if name.startswith(("crop", "warp"))}
    | {
        "INTER_LINEAR: cropped, then resized without antialiasing",
        "INTER_LINEAR: resized without antialiasing, then cropped",
    },
}


def absent(policy: ImagePolicy) -> set[str]:
    of_decoding = {name for name in FAULTS if name.startswith("exact")} if policy.decode == "exact" else set()
    return ABSENT[policy.resize] | of_decoding


def made(fault: str, sources: dict[str, Source]) -> dict[str, np.ndarray]:
    """The pixels of a program with this fault alone."""
    found = {name: pixels.FAULTS[fault](source) for name, source in sources.items()}
    return {name: sources[name].expected if image is None else image for name, image in found.items()}


@pytest.mark.parametrize("policy", [SHORTER_SIDE, WARP, SCALED], ids=str)
def test_the_golden_files_show_every_fault_and_tell_it_from_the_others(policy: ImagePolicy) -> None:
    sources = {file.name: Source.of(file.data, policy, file.pixels) for file in golden_files(policy)}
    right = sha256(b"".join(source.expected.tobytes() for source in sources.values()))
    digests = {name: sha256(b"".join(image.tobytes() for image in made(name, sources).values())) for name in FAULTS}
    assert {name for name, digest in digests.items() if digest == right} == absent(policy)
    shown = [digest for digest in digests.values() if digest != right]
    assert len(shown) == len(set(shown))


@pytest.mark.slow
@pytest.mark.parametrize("policy", [SHORTER_SIDE, WARP, SCALED], ids=str)
def test_every_fault_is_named_as_itself(policy: ImagePolicy) -> None:
    sources = {file.name: Source.of(file.data, policy, file.pixels) for file in golden_files(policy)}
    for name in FAULTS.keys() - absent(policy):
        (line,) = diagnose(sources, made(name, sources))
        assert line.startswith(f"{name}: ")
        assert line.endswith("from this fault by 0")


def test_the_command_line_says_it_and_exits_with_1(run: Run, latest: Path) -> None:
    outcome = run("check", "--pixels", program("bgr"))
    assert outcome.code == 1
    first, second, *rest = outcome.out.splitlines()
    assert first.endswith(": 2 of 19 golden files equal to the bit, max error 255, mean error 38: FAILED")
    assert second.startswith("FAILED: red and blue are swapped (BGR): 17 of 19 files (baseline.jpg, ")
    assert rest == []
    assert "not done: the bundle was not checked and no engine was run" in outcome.err
    assert outcome.err.endswith(" bgr: FAILED\n")
    outcome = run("check", latest, "--pixels", program("right"), "--json")
    assert outcome.code == 0
    answer = msgspec.json.decode(outcome.out)
    assert (answer["passed"], answer["rows"], answer["decoder"]["num_exact"]) == (True, [], 19)


@pytest.mark.parametrize(
    "option", [("--backend", "onnxruntime"), ("--weights", "w"), ("--data", "."), ("--device", "cpu"), ("--layers",)]
)
def test_options_of_engines_are_refused_beside_it(option: tuple[str, ...], run: Run, latest: Path) -> None:
    said = run("check", latest, "--pixels", "cat", *option).refused(2)
    assert said == "--pixels runs no engine; leave out --weights, --data, --backend, --device and --layers"
