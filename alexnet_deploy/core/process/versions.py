"""Versions of this package and its dependencies, recorded in the files that it writes."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = version("alexnet-deploy")


def tool_versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, Python, NumPy, Pillow and the installed ones of `packages`."""
    names = ("alexnet-deploy", "numpy", "pillow", *packages)
    found = {name: installed for name in names if (installed := installed_version(name)) is not None}
    return {"python": platform.python_version(), **found}


def installed_version(package: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
