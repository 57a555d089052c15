"""What a server is asked for: its bundles, its engines and its limits."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.opening import GIB, MIB
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.names import find_bundle, model_name
from alexnet_deploy.engines.engine import Device
from alexnet_deploy.engines.registry import Backend

# Names and versions are parts of URLs.
_MODEL = re.compile(
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?::(?P<version>[0-9]{1,18}))?=)?(?P<bundle>.+)", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A bundle, and the name and version that it is served under."""

    bundle: Path
    name: str
    version: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the place of `BUNDLE`, `NAME=BUNDLE` or `NAME:VERSION=BUNDLE`; raises UsageError if there is none."""
        match = _MODEL.fullmatch(text)
        assert match is not None, "any text is a bundle"
        given = text if Path(text).exists() else match["bundle"]
        bundle = find_bundle(Path(given))
        name = None if given == text else match["name"]
        version = None if given == text else match["version"]
        return cls(bundle=bundle, name=name or model_name(bundle), version=version or "1")


def places_of(texts: list[str]) -> tuple[ModelPlace, ...]:
    """Return the place of each bundle; raises UsageError for two with the same name and version."""
    places = tuple(ModelPlace.of(text) for text in texts)
    seen: dict[tuple[str, str], ModelPlace] = {}
    for place in places:
        if other := seen.get((place.name, place.version)):
            raise UsageError(
                f"{other.bundle} and {place.bundle} are both version {place.version} of {place.name}; name them apart: "
                f"{place.name}:2={place.bundle}"
            )
        seen[place.name, place.version] = place
    return places


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one client may ask for, and how much may wait."""

    body_bytes: int = 64 * MIB
    """Largest body of a request."""
    held_bytes: int = GIB
    """Most bytes of all bodies that are in memory."""
    images: int = 64
    """Most images of a request."""
    queued_images: int = 512
    """Most images that are decoded, wait or run at a time, for each model."""
    timeout_s: float = 30.0
    """Longest time for reading a body, and for answering it."""
    max_delay_s: float = 0.002
    """Longest time that a request waits for others, to run with them."""
    decode: DecodeLimits = DEFAULT_LIMITS
    """Limits of one image file."""

    def __post_init__(self) -> None:
        """Raise UsageError for a limit that admits nothing."""
        for name, value in (("body", self.body_bytes), ("images", self.images), ("timeout", self.timeout_s)):
            if not value > 0:
                raise UsageError(f"the limit of {name} must be greater than 0, got {value}")
        if self.queued_images < self.images:
            raise UsageError(f"the queue must hold a request of {self.images} images, got {self.queued_images}")
        if not self.max_delay_s >= 0:
            raise UsageError(f"the longest delay must be 0 or more, got {self.max_delay_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """Everything that a server is asked for."""

    models: tuple[ModelPlace, ...]
    backend: Backend | Literal["auto"] = "auto"
    device: Device | Literal["auto"] = "auto"
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any free one."""
    limits: ServerLimits = ServerLimits()
    token: str | None = None
    """A bearer token that requests must have; None for none."""
    certificate: Path | None = None
    """TLS certificate, PEM; None for plain HTTP."""
    key: Path | None = None
    """Its private key, PEM; None if it is in the certificate's file."""
