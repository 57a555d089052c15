"""Formatting of numbers and layers in the report: short, rounded, but never rounded to exactly 0 % or 100 %."""

import math
import re
from collections.abc import Iterable

from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    SpatialNorm,
    Tanh,
)
from alexnet_deploy.core.model.weights import RecipeValue
from alexnet_deploy.core.process.say import counted

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def kind(layer: Layer) -> str:
    """Return a description of a layer, as `convolution 5 × 5, 2 groups`."""
    match layer:
        case Conv():
            stride = f", stride {layer.stride}" if layer.stride > 1 else ""
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            return f"convolution {times((layer.kernel, layer.kernel))}{stride}{groups}"
        case LocalNorm():
            return f"normalisation over {counted(layer.size, 'channel')}"
        case SpatialNorm():
            return f"normalisation over {times((layer.size, layer.size))} pixels"
        case MaxPool():
            return f"max pooling {times((layer.kernel, layer.kernel))}, stride {layer.stride}"
        case AveragePool():
            return f"average pooling {times((layer.kernel, layer.kernel))}, stride {layer.stride}"
        case AdaptiveAveragePool():
            return f"average pooling to {times((layer.size, layer.size))}"
        case Tanh():
            return "tanh"
        case Linear():
            return "fully connected"
        case Dropout():
            return f"dropout {layer.probability:g}, in training only"
        case Flatten():
            return "flatten"
        case _:
            return "ReLU"


def times(numbers: Iterable[int]) -> str:
    """Return numbers as `3 × 227 × 227`."""
    return f"{_SPACE}×{_SPACE}".join(map(str, numbers))


def short(value: float, form: str = ".2g") -> str:
    """Return two significant digits: 2.4e-7, 0.01, NaN."""
    if not value or not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite" if value else "0"
    # The `#` form keeps trailing zeros, and also a trailing point, which is removed here.
    plain = re.sub(r"\.(?=e|$)", "", format(value, form))
    return re.sub(r"e([+-])0*", lambda match: f"e{match[1].replace('+', '')}", plain)


def setting(value: RecipeValue) -> str:
    """Return a recipe's value as 0.005, yes, 25, 51, 79, or none."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value)


def sentence(text: str) -> str:
    """Return text as a sentence, with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def multiple(value: float) -> str:
    """Return 0.4×, 3.7× or 160,000×."""
    return f"{float(f'{value:.2g}'):,.0f}×" if 10 <= value < math.inf else f"{short(value)}×"


def percent(share: float) -> str:
    """Return a share as 98.5 %; only exactly 1 and 0 give 100 % and 0 %."""
    if share in (0, 1):
        return f"{100 * share:.0f}{_SPACE}%"
    if math.isnan(share):
        return "NaN"
    sign = "<" if share < 0.001 else ">" if share > 0.999 else ""
    return f"{sign}{100 * min(max(share, 0.001), 0.999):.1f}{_SPACE}%"


def interval(low: float, high: float) -> str:
    """Return an interval of shares as 76.8 to 83.2 %."""
    ends = (f"{100 * share:.0f}" if share in (0, 1) else f"{100 * share:.1f}" for share in (low, high))
    return f"{' to '.join(ends)}{_SPACE}%"


def fine_percent(share: float) -> str:
    """Return a share that is often tiny, in two significant digits: 0.010 %, 1.2e-5 %."""
    return f"{short(100 * share, '#.2g')}{_SPACE}%"


def points(value: float) -> str:
    """Return percentage points as 0.25 or −1.50, with the typographic minus."""
    return "NaN" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", _MINUS)


def tick(value: float) -> str:
    """Return a number of a linear scale: −2, 0, 0.5."""
    return f"{value:g}".replace("-", _MINUS)


def power(exponent: int) -> str:
    """Return a power of ten: 1, 10, 10³, 10⁻⁵."""
    return {0: "1", 1: "10"}.get(exponent, f"10{str(exponent).translate(_SUPERSCRIPTS)}")


def words(number: int) -> str:
    """Return 809,572 or 60.97 million."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.4g}{_SPACE}{name}"
    return f"{number:,}"


def size(num_bytes: int) -> str:
    """Return 812 B, 3.2 MB or 244 MB; a kilobyte is 1,000 bytes."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g}{_SPACE}{name}"
    return f"{num_bytes}{_SPACE}B"


def duration(seconds: float) -> str:
    """Return 4.5 s, 1 min 59 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
