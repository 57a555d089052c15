"""How a network is trained: every number that has a say, in one record that the weights keep.

Recipes are TOML files, those in `train/recipes/` shipped under their names. A file may begin from another recipe:
`extends = "folder"`. The docstrings of the fields are what `alexnet-deploy recipes NAME` explains them by.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.fs.reading import from_toml

Value = TypeVar("Value")

Initialisation: TypeAlias = Literal["kaiming", "paper", "original"]
Schedule: TypeAlias = Literal["plateau", "cosine", "step"]
Optimiser: TypeAlias = Literal["sgd", "adamw"]
ClassWeights: TypeAlias = Literal["none", "balanced"]
TrainingPrecision: TypeAlias = Literal["fp32", "bf16"]

_SHIPPED = Path(__file__).parent / "recipes"
_MOST_SHOWN = 60
_MOST_FILES = 20

# Of a recipe's whole numbers; a seed has 32 bits.
_MOST = 2**32
_BARE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


RENAMED: MappingProxyType[str, str] = MappingProxyType(
    {
        "min_crop_area": "min_scale",
        "max_crop_aspect": "max_ratio",
        "erasing": "random_erasing",
        "step_epochs": "milestones",
    }
)
"""Fields that weights and checkpoints may know by another name: that name to today's."""


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps down the gradient on random crops and mirrors, with everything about them that can be chosen."""

    name: str
    """The name of its file."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images in a step."""
    learning_rate: float
    """Highest learning rate that the schedule reaches."""
    bias_learning_rate: float = 0.0
    """Learning rate of the biases, the same throughout; 0 is that of the weights."""
    schedule: Schedule = "plateau"
    """`plateau`: the rate is divided by 10 when validation error stops improving; `step`: at the epochs of milestones;
    `cosine`: the rate falls to 0 along half a cosine."""
    patience: int = 5
    """plateau: epochs in a row without a better validation error before the rate is divided."""
    divisions: int = 3
    """plateau: how often the rate is divided at most."""
    milestones: tuple[int, ...] = ()
    """step: rising epochs, from 2 on, at which the rate is divided by 10."""
    warmup_epochs: int = 0
    """Epochs over which the rate first rises from 0, step by step."""
    early_stopping: int = 0
    """Epochs in a row without a new best epoch (validation top-1, then loss) that end training; 0: none do."""
    optimiser: Optimiser = "sgd"
    """`sgd`: with momentum; `adamw`: Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""
    momentum: float = 0.9
    """Share of the past that a step keeps: of the sum of gradients (sgd), or of their mean (beta1 of adamw, whose beta2
    is 0.999)."""
    weight_decay: float = 5e-4
    """Weight decay; biases have none."""
    ema_decay: float = 0.0
    """Share of the past that the running mean of the weights keeps at a step; that mean is validated and saved. 0: no
    mean."""
    initialisation: Initialisation = "kaiming"
    """First values of the weights: `kaiming` (He et al. 2015), `paper` or `original`; with the last two pixels stay on
    0..255."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, 0..1; the training loss includes it."""
    class_weights: ClassWeights = "none"
    """`balanced`: a training image counts in inverse proportion to the training images of its class, 1 on average;
    `none`: all count the same."""
    min_scale: float = 1.0
    """Smallest share of the image that a random crop is scaled from, 0..1; 1: crops of the input size, unscaled."""
    max_ratio: float = 1.0
    """Greatest ratio of the sides of a scaled crop, either way."""
    max_rotation: float = 0.0
    """Greatest angle that a scaled crop is turned by, either way, in degrees."""
    color_jitter: float = 0.0
    """Greatest share by which brightness, contrast and saturation change, each by its own draw, 0..1."""
    color_noise: float = 0.1
    """Deviation of the paper's PCA colour noise, in deviations of the data's own colours; 0: none."""
    color_noise_epochs: int = 0
    """Number of first epochs that have colour noise; 0: all have it."""
    random_erasing: float = 0.0
    """Share of the images in which a random rectangle is erased, 0..1 (Zhong et al. 2017)."""
    precision: TrainingPrecision = "fp32"
    """Precision of the products, in training and in validation: `fp32` or `bf16`; weights and their updates are always
    float32."""
    compile: bool = False
    """Whether the network goes through torch.compile, on CUDA."""
    seed: int = 0
    """Seed of initialisation, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            # Before any is printed: a number may have thousands of digits.
            if any(
                abs(number) > _MOST
                for number in (value if isinstance(value, tuple) else (value,))
                if type(number) is int
            ):
                raise UsageError(f"{name} is too large; whole numbers may be {_MOST:,} at most")
        for name in ("epochs", "batch_size", "learning_rate", "patience"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} of {getattr(self, name)} trains nothing; it must be over 0, and finite")
        for name in (
            "bias_learning_rate",
            "divisions",
            "warmup_epochs",
            "early_stopping",
            "weight_decay",
            "color_noise",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 or more, and finite")
        for name in ("momentum", "ema_decay", "label_smoothing", "color_jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 or more and under 1")
        if not 0 < self.min_scale <= 1:
            raise UsageError(f"min_scale is {self.min_scale}; it must be over 0 and at most 1")
        if not 1 <= self.max_ratio < math.inf:
            raise UsageError(f"max_ratio is {self.max_ratio}; it must be 1 or more, and finite")
        if not 0 <= self.max_rotation <= 180:
            raise UsageError(f"max_rotation is {self.max_rotation}; it must be 0 to 180 degrees")
        if not 0 <= self.random_erasing <= 1:
            raise UsageError(f"random_erasing is {self.random_erasing}; it must be 0 to 1")
        if not 0 <= self.color_noise_epochs <= self.epochs:
            raise UsageError(f"color_noise_epochs is {self.color_noise_epochs}, with {self.epochs} epochs in all")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed of {self.seed} is out of range; it must be 0 to {2**32 - 1}")
        if (self.schedule == "step") != bool(self.milestones):
            raise UsageError(
                f"milestones is {list(self.milestones)} and schedule {self.schedule!r}; each needs the other"
            )
        if list(self.milestones) != sorted({number for number in self.milestones if number > 1}):
            raise UsageError(f"milestones is {list(self.milestones)}; needed are rising numbers from 2 on")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs}; a cosine needs fewer than the {self.epochs} epochs, as with "
                "--set warmup_epochs=0"
            )


_FIELDS = tuple(name for name in Recipe.__struct_fields__ if name != "name")
_REQUIRED = tuple(field.name for field in msgspec.structs.fields(Recipe) if field.required and field.name != "name")
_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Recipe).items() if get_origin(kind) is Literal}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that are shipped, sorted."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def recipe_by_name(name: str) -> Recipe:
    """Return the shipped recipe of this name, or that of a file, where the name ends in .toml.

    Raises UsageError for any other name, and for a file that cannot be read or holds no recipe; it says which field.
    """
    path = _path_of(name)
    return _recipe({"name": path.stem}, _resolved(path), subject=str(path))


def recipe_header(name: str) -> str:
    """Return the comment that the file of a recipe begins with; raises UsageError where there is no such file."""
    lines = _read(_path_of(name)).splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("#"), lines))


def _path_of(name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    if name not in recipe_names():
        raise UsageError(
            f"{name!r} is not a recipe; there are {', '.join(recipe_names())}, and files whose name ends in .toml"
        )
    return _SHIPPED / f"{name}.toml"


def _resolved(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, object]:
    """Return the fields of a file and, where it extends another recipe, those that it does not set itself."""
    try:
        fields = from_toml(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
    base = fields.pop("extends", None)
    _check_fields(fields, str(path))
    if base is None:
        return fields
    if not isinstance(base, str) or not base.isprintable():
        raise UsageError(f'{path}: extends is {base!r}; it must be the name of a recipe, as in extends = "folder"')
    # A file that is named is looked for beside the one that names it.
    try:
        base_path = path.parent / base if base.endswith(".toml") else _path_of(base)
    except UsageError as error:
        raise UsageError(f"{path}: extends: {error}") from error
    chain = (*extending, path.resolve())
    if len(chain) > _MOST_FILES:
        raise UsageError(f"{path}: is the last of {len(chain)} recipes that extend one another; {_MOST_FILES} may")
    if base_path.resolve() in chain:
        raise UsageError(f"{path}: extends {base}, which extends this file in turn; end the circle at a shipped recipe")
    return _resolved(base_path, chain) | fields


def _read(path: Path) -> str:
    try:
        return read_file(path, MIB).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error


def with_new_names(fields: Mapping[str, Value]) -> dict[str, Value]:
    """Return the fields of a recipe that was written down at any time, by their names of today."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}


def with_settings(recipe: Recipe, settings: Mapping[str, object]) -> Recipe:
    """Return the recipe with these fields changed; raises UsageError for an unknown field or a value it cannot have."""
    return _recipe(msgspec.to_builtins(recipe), settings, subject=f"recipe {recipe.name}")


def parse_settings(words: Sequence[str]) -> dict[str, object]:
    """Return fields and values of `FIELD=VALUE`s, the values as TOML has them; a bare word is a string.

    Raises UsageError for what is none, and for a field that is set twice.
    """
    settings: dict[str, object] = {}
    for word in words:
        field, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not field.isidentifier():
            raise UsageError(f"--set {word}: needed is FIELD=VALUE")
        if field in settings:
            raise UsageError(f"--set {word}: {field} is set twice")
        is_word = _BARE_WORD.fullmatch(value) and value not in ("true", "false", "inf", "nan")
        try:
            (settings[field],) = from_toml(f'value = "{value}"' if is_word else f"value = {value}").values()
        except ValueError as error:
            raise UsageError(f"--set {_shortened(word)}: {_shortened(value)!r} is no TOML value") from error
    return settings


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _recipe(known: Mapping[str, object], fields: Mapping[str, object], *, subject: str) -> Recipe:
    _check_fields(fields, subject)
    if missing := [name for name in _REQUIRED if name not in known and name not in fields]:
        raise UsageError(
            f"{subject}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; set "
            f"{'it' if len(missing) == 1 else 'them'}, or begin from a shipped recipe with a line such as "
            'extends = "folder"'
        )
    for name, choices in _CHOICES.items():
        if fields.get(name, choices[0]) not in choices:
            raise UsageError(f"{subject}: {name} is {fields[name]!r}; there are {', '.join(choices)}")
    try:
        return msgspec.convert({**known, **fields}, Recipe)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{subject}: {error}") from error


def _check_fields(names: Iterable[str], subject: str) -> None:
    for name in names:
        if name in RENAMED:
            raise UsageError(f"{subject}: {name} is called {RENAMED[name]} now; rename it")
        if name not in _FIELDS:
            raise UsageError(f"{subject}: {name} is not a field of a recipe; {_nearest(name)}")


def _nearest(name: str) -> str:
    """Return which fields may be meant by a name that is none."""
    parts = [field for field in _FIELDS if name in field]
    if near := difflib.get_close_matches(name, _FIELDS, n=1) or parts:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(_FIELDS)}"
