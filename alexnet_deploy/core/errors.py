"""Every error this package raises on purpose.

    AlexNetDeployError
    ├── UsageError            the request contradicts itself or names something that does not exist
    │   └── BusyError         another process is writing the same output
    ├── DataError             a dataset that cannot be used
    ├── TrainingError         training failed and cannot continue
    │   └── DivergedError     the loss became infinite or NaN
    ├── ImageError            one image that cannot be read; carries a code
    ├── WeightsError          a weights file that cannot be read or does not match its architecture
    ├── ExportError           a graph that does not match its architecture table
    ├── BundleError           a bundle that cannot be written or read
    │   └── IntegrityError    a bundle whose files differ from the published ones
    ├── OutputError           results that cannot be written
    ├── BackendError          an engine that is not available on this machine or for this bundle
    │   └── WrongAnswerError  an engine whose output is not valid probabilities; carries the image's index
    └── ParityError           an engine that disagrees with the trained network

Each class sets the exit code of the failed command: 1 a check failed, 2 wrong use, 3 the work could not be done.
"""

from enum import StrEnum
from typing import ClassVar


class AlexNetDeployError(Exception):
    """Base class of every error of this package; the message is one sentence for the user."""

    exit_code: ClassVar[int] = 3


class UsageError(AlexNetDeployError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = 2


class BusyError(UsageError):
    """Another process is writing the same output; the same request may succeed once it ends."""


class DataError(AlexNetDeployError):
    """A dataset cannot be used."""


class TrainingError(AlexNetDeployError):
    """Training failed and cannot continue."""


class DivergedError(TrainingError):
    """The loss, or a weight, became infinite or NaN."""


class ImageErrorCode(StrEnum):
    """Reason why an image has no prediction: a closed set."""

    EMPTY = "empty"
    """The file has no bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """No decoder recognises the header."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """A valid image in a format or pixel type that this package does not decode."""
    TRUNCATED = "truncated"
    """The header is valid, but the pixel data end early or are damaged."""
    TOO_LARGE = "too_large"
    """The bytes, the pixels or the decoding work exceed the limits."""
    UNREADABLE = "unreadable"
    """The operating system refused to read the file."""
    MISSING = "missing"
    """The file does not exist."""


class ImageError(AlexNetDeployError):
    """One image cannot be read; `code` gives the reason."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the constructor's arguments: a pool hangs forever on an exception that cannot be unpickled."""
        return ImageError, (self.code, str(self))

    def alone(self) -> "ImageError":
        """Return a copy without the traceback, whose frames hold the image's bytes and pixels."""
        return ImageError(self.code, str(self))


class WeightsError(AlexNetDeployError):
    """A weights file cannot be read, or its tensors do not match its architecture table."""


class ExportError(AlexNetDeployError):
    """A graph does not match its architecture table."""


class BundleError(AlexNetDeployError):
    """A bundle cannot be written or read."""


class IntegrityError(BundleError):
    """A bundle's files differ from the published ones, or a path leads outside the bundle."""


class OutputError(AlexNetDeployError):
    """Results cannot be written to the requested place."""


class BackendError(AlexNetDeployError):
    """The requested engine is not available on this machine or for this bundle."""


class WrongAnswerError(BackendError):
    """An engine's output is not valid probabilities: float32 (N, K), finite, each row summing to 1.

    `image` is the index, within the images passed to the engine, of the first wrong output.
    """

    def __init__(self, message: str, *, image: int) -> None:
        super().__init__(message)
        self.image = image

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the constructor's arguments: a pool hangs forever on an exception that cannot be unpickled."""
        return _wrong_answer, (str(self), self.image)


def _wrong_answer(message: str, image: int) -> WrongAnswerError:
    return WrongAnswerError(message, image=image)


class ParityError(AlexNetDeployError):
    """An engine disagrees with the trained network."""

    exit_code = 1
