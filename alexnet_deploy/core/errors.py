"""Every error this package raises on purpose.

    AlexNetDeployError
    ├── UsageError            the request contradicts itself or names what does not exist
    ├── DataError             a folder of images that cannot be trained on
    ├── TrainingError         training could not go on
    ├── ImageError            one image that cannot be read; carries a code
    ├── WeightsError          a weights file that cannot be read or does not fit
    ├── ExportError           a graph that did not come out as the table says
    ├── BundleError           a bundle that cannot be written or read
    │   └── IntegrityError    a bundle whose bytes are not those that were published
    ├── OutputError           results that cannot be written
    ├── BackendError          an engine that this machine or this bundle cannot give
    │   └── WrongAnswerError  an engine whose answer is not probabilities; carries the image's index
    └── ParityError           an engine that disagrees with the trained network

Each carries the exit code of the command that it ends: 1 a check failed, 2 wrong use, 3 the work
could not be done.
"""

from enum import StrEnum
from typing import ClassVar


class AlexNetDeployError(Exception):
    """Base of every error of this package; its text is one sentence for the user."""

    exit_code: ClassVar[int] = 3


class UsageError(AlexNetDeployError):
    """The request contradicts itself or names what does not exist."""

    exit_code = 2


class DataError(AlexNetDeployError):
    """A folder of images cannot be trained on."""


class TrainingError(AlexNetDeployError):
    """Training could not go on."""


class ImageErrorCode(StrEnum):
    """Why an image gave no prediction: a closed set."""

    EMPTY = "empty"
    """The file has no bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """No decoder knows its header."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """An image, of a format or pixel type that is not decoded here."""
    TRUNCATED = "truncated"
    """The header is an image's; the pixels end early or are damaged."""
    TOO_LARGE = "too_large"
    """More bytes, pixels or work to decode them than the limits allow."""
    UNREADABLE = "unreadable"
    """The operating system would not let it be read."""
    MISSING = "missing"
    """There is no such file."""


class ImageError(AlexNetDeployError):
    """One image cannot be read; `code` says why, from a closed set."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it as it is made: a pool waits for good for an exception that cannot be unpickled."""
        return ImageError, (self.code, str(self))

    def alone(self) -> "ImageError":
        """Return it without its traceback, whose frames hold the image's bytes and pixels."""
        return ImageError(self.code, str(self))


class WeightsError(AlexNetDeployError):
    """A weights file cannot be read, or its tensors do not fit its table."""


class ExportError(AlexNetDeployError):
    """A graph did not come out as the table says."""


class BundleError(AlexNetDeployError):
    """A bundle cannot be written or read."""


class IntegrityError(BundleError):
    """A bundle's bytes are not those that were published, or its paths leave it."""


class OutputError(AlexNetDeployError):
    """Results cannot be written where they were to go."""


class BackendError(AlexNetDeployError):
    """An engine was asked for that this machine or this bundle cannot give."""


class WrongAnswerError(BackendError):
    """An engine's answer is not probabilities, float32 (N, K), finite, each row summing to 1.

    `image` is the index, in what the engine was asked, of the first image whose answer is wrong.
    """

    def __init__(self, message: str, *, image: int) -> None:
        super().__init__(message)
        self.image = image

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it as it is made: a pool waits for good for an exception that cannot be unpickled."""
        return _wrong_answer, (str(self), self.image)


def _wrong_answer(message: str, image: int) -> WrongAnswerError:
    return WrongAnswerError(message, image=image)


class ParityError(AlexNetDeployError):
    """An engine disagrees with the trained network."""

    exit_code = 1
