"""The record of a calibrated confidence in a bundle's manifest."""

import math

from msgspec import Struct

from alexnet_deploy.core.confidence.reliability import Reliability


class Confidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The temperature of a bundle, and the agreement of confidence with accuracy without it and with it.

    The last layer of the graph is that of the weights file divided by the temperature. The temperature was found on all
    images. For `after`, the temperature of each half of them was applied to the other half, so that no image is judged
    by a temperature that it helped to find.
    """

    temperature: float
    half_temperatures: tuple[float, float]
    """The temperatures found on each half alone."""
    num_images: int
    images_sha256: str
    """Digest of the decoded images: uint8 (256, 256, 3) each, class by class."""
    is_validation: bool
    """Whether they are the validation images of the training, which chose its best epoch too."""
    before: Reliability
    """Without a temperature."""
    after: Reliability
    """With the temperature of the other half."""
    loss_before: float
    """Mean cross-entropy, in nats, without a temperature."""
    loss_after: float
    """The same with the temperature of the other half; it can be lower where `after` is not."""
    num_changed: int
    """Images whose top-1 prediction changes with the temperature: with several views, near ties can turn."""

    def __post_init__(self) -> None:
        for temperature in (self.temperature, *self.half_temperatures):
            # Written so that NaN is refused too.
            if not 0 < temperature < math.inf:
                raise ValueError(f"temperature must be finite and > 0, got {temperature}")
        if not self.num_images == self.before.num_images == self.after.num_images >= 1:
            raise ValueError("the numbers of images of a calibrated confidence differ")
        if not 0 <= self.num_changed <= self.num_images:
            raise ValueError(f"num_changed must be 0 to {self.num_images}, got {self.num_changed}")
