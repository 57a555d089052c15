"""How this package was installed, and the command that installs one of its extras the same way."""

import json
import os
import shlex
from importlib.metadata import distributions
from typing import Literal, TypeAlias, cast
from urllib.parse import unquote, urlsplit

Extra: TypeAlias = Literal[
    "cpu",
    "gather",
    "gpu",
    "heif",
    "import",
    "loadgen",
    "parquet",
    "pycuda",
    "ray",
    "remote",
    "rtx",
    "serve",
    "tensorboard",
    "train",
    "dev",
]
"""One of pyproject.toml's optional dependencies."""

_NAME = "alexnet-deploy"

SMALL_TORCH = (
    "without an NVIDIA GPU run `pip install torch --index-url https://download.pytorch.org/whl/cpu` first: on Linux "
    "the package index's torch brings gigabytes of CUDA"
)
"""How to get PyTorch without CUDA."""


def install_command(extra: Extra) -> str:
    """Return the shell command that adds an extra, from the source that this package was installed from.

    A checkout is given by its path (editable if it was installed so), a repository by its URL and commit, a file by its
    URL, a package from an index by its name only. Source: PEP 610, direct_url.json.
    """
    origin = _origin()
    url = str(origin.get("url", ""))
    if not url:
        return f"pip install {shlex.quote(f'{_NAME}[{extra}]')}"
    directory, repository = (cast("dict[str, object] | None", origin.get(key)) for key in ("dir_info", "vcs_info"))
    if directory is not None:
        path = unquote(urlsplit(url).path)
        if not os.path.isdir(path):  # noqa: PTH112
            # The checkout has been removed since the installation.
            return f"cd CHECKOUT && pip install '.[{extra}]'"
        place = shlex.quote(f"{path}[{extra}]")
        return f"pip install -e {place}" if directory.get("editable") else f"pip install {place}"
    if repository is not None:
        url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
    if (below := origin.get("subdirectory")) is not None:
        url = f"{url}#subdirectory={below}"
    return f"pip install {shlex.quote(f'{_NAME}[{extra}] @ {url}')}"


def _origin() -> dict[str, object]:
    # A checkout may also have an egg-info from a build, which does not record an origin.
    for found in distributions(name=_NAME):
        if text := found.read_text("direct_url.json"):
            return cast("dict[str, object]", json.loads(text))
    return {}
