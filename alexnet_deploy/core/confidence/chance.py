"""The calibration error that chance alone gives: that of a network whose confidence is exactly right."""

import math

from alexnet_deploy.core.confidence.reliability import Reliability


def chance_error(found: Reliability) -> float:
    """Return the expected calibration error, 0..1, of a network with these confidences if they were right.

    The accuracy of n images with confidence p differs from p by about sqrt(2 p (1 - p) / (pi n)): the mean deviation of
    a normal distribution. A measured error near this number is no evidence of wrong confidence. Source: Bröcker and
    Smith 2007, "Increasing the reliability of reliability diagrams", for the idea.
    """
    means = ((each.num_images, each.mean_confidence) for each in found.bins if each.mean_confidence is not None)
    return sum(math.sqrt(2 / math.pi * number * mean * (1 - mean)) for number, mean in means) / found.num_images
