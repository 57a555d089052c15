"""Which version of what had a part in a file."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = version("alexnet-deploy")


def tool_versions(*packages: str) -> dict[str, str]:
    """Return the versions of this program, Python, NumPy, Pillow and those of `packages` that are installed."""
    names = ("alexnet-deploy", "numpy", "pillow", *packages)
    found = {name: installed for name in names if (installed := installed_version(name)) is not None}
    return {"python": platform.python_version(), **found}


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
