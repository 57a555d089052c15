"""Numbers in a layer's settings: plain JSON values, checked."""

from alexnet_deploy.export.importing.readers.keras.contents import KerasError

_LARGEST = 1 << 16


def number_of(value: object, subject: str) -> float:
    """Return a setting that is a number; raises KerasError, with the subject, where it is not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise KerasError(f"{subject} is {str(value)[:40]!r}, where a number is needed")
    return float(value)


def three_of(value: object, subject: str) -> tuple[float, float, float]:
    """Return a setting of one number or three, for red, green and blue."""
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise KerasError(f"{subject} has {len(values)} numbers, where 1 or 3 are needed")
    red, green, blue = (number_of(one, subject) for one in values)
    return red, green, blue


def whole_of(value: object, subject: str, *, least: int = 1) -> int:
    """Return a setting that is a whole number, at least `least`."""
    number = number_of(value, subject)
    if number != int(number) or not least <= number <= _LARGEST:
        raise KerasError(f"{subject} is {number:g}, where a whole number from {least} is needed")
    return int(number)


def pair_of(value: object, subject: str, usual: int, *, least: int = 1) -> tuple[int, int]:
    """Return a number for height and one for width, of one or two numbers."""
    values = value if isinstance(value, list) else [usual if value is None else value] * 2
    if len(values) != 2:
        raise KerasError(f"{subject} has {len(values)} numbers, where 1 or 2 are needed")
    height, width = (whole_of(one, subject, least=least) for one in values)
    return height, width


def one_of(value: object, subject: str, usual: int) -> int:
    """Return a setting of one number, or of two that are equal; `usual` where it is absent."""
    height, width = pair_of(value, subject, usual)
    if height != width:
        raise KerasError(f"{subject} differs in height and width")
    return height
