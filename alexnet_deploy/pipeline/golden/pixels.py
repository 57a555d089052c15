"""The check of any program that decodes images: its pixels of the golden files, and the name of its fault."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.proof.golden_files import DecoderRow, decoder_row, file_name, golden_pixels
from alexnet_deploy.pipeline.golden.faults import FAULTS, Source
from alexnet_deploy.pipeline.golden.program import TIMEOUT_S, pixels_of

_NEAR = 0.25
"""A fault explains a file if its pixels are at most this far from the program's, as a share of the distance of the
right pixels. Programs of the same fault differ in rounding, and at the edges."""

_ROUNDING = 2
"""Levels of 0..255 by which rounding may move a value."""

_MOVED = 0.5
"""Mean levels by which a fault must move the pixels of a file to count as wrong there."""

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Distance:
    """The difference of two images of 256 x 256, in levels of 0..255."""

    mean: float
    max: int

    @classmethod
    def of(cls, left: np.ndarray, right: np.ndarray) -> "_Distance":
        errors = np.abs(left.astype(np.int16) - right)
        return cls(mean=float(errors.mean()), max=int(errors.max()))

    def __str__(self) -> str:
        if not self.max:
            return "0"
        return f"{self.mean:.2g} on average and {self.max} at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """One fault, computed on the golden files to which it applies."""

    left: Mapping[str, _Distance]
    """Distance of the program's pixels from those of the fault, by file."""
    moved: Mapping[str, float]
    """Mean distance of the right pixels from those of the fault, by file; files that it does not move are absent."""

    def explains(self, name: str, error: _Distance) -> bool:
        """Return whether a wrong file is much nearer to the fault than to the right pixels."""
        if name not in self.moved:
            return False
        left = self.left[name]
        if error.max <= _ROUNDING:
            return not left.max
        return left.mean <= _NEAR * error.mean or left.max <= _ROUNDING

    def absorbs(self, name: str, error: _Distance) -> bool:
        """Return whether a wrong file differs in rounding alone, and is nearer to the fault."""
        return name in self.moved and error.max <= _ROUNDING and self.left[name].mean <= error.mean / 2

    def merit(self, errors: Mapping[str, _Distance]) -> float:
        """Return how well the fault explains the wrong files, `errors`; files that are right speak against it."""
        explained = (name for name, error in errors.items() if self.explains(name, error))
        gain = sum(1 - self.left[name].mean / errors[name].mean for name in explained)
        return gain - sum(moved > _MOVED for name, moved in self.moved.items() if not self.left[name].mean < moved)


def check_program(bundle: Bundle, command: str, *, timeout_s: float = TIMEOUT_S, say: Say = say_nothing) -> DecoderRow:
    """Decode a bundle's golden files with another program; name what is wrong with its pixels.

    The program reads paths from stdin, one a line, and writes each image to stdout as raw uint8 (256, 256, 3), RGB, in
    the same order. Faults are named from a list: one for each file.

    Raises UsageError if the program cannot be started, BundleError for a bundle without golden files, IntegrityError
    for damaged ones.
    """
    expected = golden_pixels(bundle)
    files = {file_name(name): bundle.read(name) for name in expected}
    wanted = {file_name(name): pixels for name, pixels in expected.items()}
    say(f"decoding {counted(len(files), 'golden file')} with {command}")
    found = pixels_of(command, files, timeout_s)
    if isinstance(found, str):
        return decoder_row(command, wanted, {}, (found,))
    actual = dict(zip(files, found, strict=True))
    policy = bundle.manifest.preprocessing.image_policy
    sources = {name: Source.of(data, policy, wanted[name]) for name, data in files.items()}
    say("comparing its pixels with known faults")
    return decoder_row(command, wanted, actual, tuple(diagnose(sources, actual)))


def diagnose(sources: Mapping[str, Source], actual: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield one line for each fault that explains wrong pixels, the gravest first; then what no fault explains.

    The fault that explains most files is found first; the others then explain what is left.
    """
    errors = {name: _Distance.of(actual[name], source.expected) for name, source in sources.items()}
    wrong = {name: error for name, error in errors.items() if error.max}
    if not wrong:
        return
    candidates = {fault: _candidate(fault, sources, actual) for fault in FAULTS}
    lines: list[tuple[float, str]] = []
    while able := [
        fault
        for fault, candidate in candidates.items()
        if any(candidate.explains(name, error) for name, error in wrong.items())
    ]:
        fault = max(able, key=lambda name: candidates[name].merit(wrong))
        best = candidates[fault]
        explained = [name for name, error in wrong.items() if best.explains(name, error) or best.absorbs(name, error)]
        left = _together([best.left[name] for name in explained])
        line = f"{fault}: {_differ(explained, wrong, len(sources))}, from this fault by {left}"
        lines.append((sum(wrong[name].mean for name in explained), line))
        wrong = {name: error for name, error in wrong.items() if name not in explained}
    yield from (line for _, line in sorted(lines, reverse=True))
    if rounded := [name for name, error in wrong.items() if error.max <= _ROUNDING]:
        yield f"rounding or another decoder's arithmetic: {_differ(rounded, wrong, len(sources))}"
    for name, error in wrong.items():
        if name not in rounded:
            yield f"unknown difference: {name} differs by {error}"


def _candidate(fault: str, sources: Mapping[str, Source], actual: Mapping[str, np.ndarray]) -> _Candidate:
    left, moved = {}, {}
    for name, source in sources.items():
        pixels = FAULTS[fault](source)
        if pixels is not None and (by := _Distance.of(pixels, source.expected).mean):
            left[name], moved[name] = _Distance.of(actual[name], pixels), by
    return _Candidate(left=left, moved=moved)


def _together(distances: Sequence[_Distance]) -> _Distance:
    return _Distance(
        mean=sum(distance.mean for distance in distances) / len(distances),
        max=max(distance.max for distance in distances),
    )


def _differ(names: Sequence[str], errors: Mapping[str, _Distance], num_files: int) -> str:
    """Return which files differ from the right pixels, and how far."""
    listed = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    which = f"all {num_files} files" if len(names) == num_files else f"{len(names)} of {num_files} files ({listed})"
    verb = "differs" if len(names) == 1 else "differ"
    return f"{which} {verb} by {_together([errors[name] for name in names])}"
