"""Training recipes: every hyperparameter in one record, which is stored in the weights file.

Recipes are TOML files; those in `train/recipes/` are shipped and known by name. A file may extend another recipe:
`extends = "folder"`. `alexnet-deploy recipes NAME` prints the docstrings of the fields as comments.
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
from alexnet_deploy.core.fs.reading import from_toml, invalid_value_words, read_toml
from alexnet_deploy.core.model.preprocessing import DecodePolicy

Value = TypeVar("Value")

Initialisation: TypeAlias = Literal["kaiming", "paper", "original"]
Schedule: TypeAlias = Literal["plateau", "cosine", "step"]
Optimiser: TypeAlias = Literal["sgd", "adamw"]
ClassWeights: TypeAlias = Literal["none", "balanced"]
TrainingPrecision: TypeAlias = Literal["fp32", "bf16"]

_SHIPPED = Path(__file__).parent / "recipes"
_MOST_SHOWN = 60
_MOST_FILES = 20

# Largest integer value of a field; a seed has 32 bits.
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
"""Old names of fields, found in older weights and checkpoints: old name to current name."""


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of training: optimiser, schedule, augmentation and seed."""

    name: str
    """Name of the recipe's file, without .toml."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images per step."""
    learning_rate: float
    """Peak learning rate of the schedule."""
    bias_learning_rate: float = 0.0
    """Constant learning rate of the biases; 0: the same as the weights'."""
    pretrained_rate: float = 1.0
    """With `train --from`: learning rate of the layers that the file has, relative to that of new layers; without it,
    unused."""
    schedule: Schedule = "plateau"
    """`plateau`: divide the learning rate by 10 when the validation error stops improving; `step`: divide it by 10 at
    the epochs in milestones; `cosine`: decay it to 0 along half a cosine."""
    patience: int = 5
    """plateau: consecutive epochs without a better validation error before the learning rate is divided."""
    divisions: int = 3
    """plateau: maximum number of divisions."""
    milestones: tuple[int, ...] = ()
    """step: epochs at which the learning rate is divided by 10, ascending, 2 or later."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up, in which the learning rate rises from 0 at every step."""
    early_stopping: int = 0
    """Stop after this many consecutive epochs without a new best epoch (validation top-1, then loss); 0: never."""
    optimiser: Optimiser = "sgd"
    """`sgd`: with momentum; `adamw`: Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""
    momentum: float = 0.9
    """Momentum of sgd, or beta1 of adamw (its beta2 is 0.999)."""
    weight_decay: float = 5e-4
    """Weight decay of the weights; biases have none."""
    ema_decay: float = 0.0
    """Decay per step of the exponential moving average of the weights, which is validated and saved instead of them; 0:
    no average."""
    initialisation: Initialisation = "kaiming"
    """Initial values of the weights: `kaiming` (He et al. 2015), `paper` or `original`; with `paper` and `original`,
    pixels keep the scale 0..255 (only the mean is subtracted)."""
    label_smoothing: float = 0.0
    """Label smoothing: share of the target that is spread over all classes, 0..1; the training loss includes it."""
    class_weights: ClassWeights = "none"
    """`balanced`: weight the loss of a training image by the inverse frequency of its class, 1 on average; `none`: do
    not weight."""
    mirror: bool = True
    """Whether each training image is mirrored left to right with probability 1/2."""
    random_crops: bool = True
    """Whether crops of the input size are at random places; false: the centre of the image, only with min_scale 1,
    max_ratio 1 and max_rotation 0."""
    min_scale: float = 1.0
    """Smallest area of a random crop before it is resized, as a share of the image, 0..1; 1: crops of the input size,
    not resized."""
    max_ratio: float = 1.0
    """Largest aspect ratio of a resized crop, wide or tall."""
    max_rotation: float = 0.0
    """Largest rotation of a resized crop, in either direction, in degrees."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, each drawn separately, 0..1."""
    color_noise: float = 0.1
    """Standard deviation of the paper's PCA colour noise, relative to that of the training images' colours; 0: none."""
    color_noise_epochs: int = 0
    """Number of initial epochs with colour noise; 0: all epochs."""
    random_erasing: float = 0.0
    """Share of the training images in which a random rectangle is erased, 0..1 (Zhong et al. 2017)."""
    precision: TrainingPrecision = "fp32"
    """Precision of convolutions and matrix products, in training and in validation: `fp32` or `bf16`; weights and their
    updates are always float32."""
    compile: bool = False
    """Whether to compile the network with torch.compile; CUDA only."""
    decode: DecodePolicy = "exact"
    """How image files are decoded, in training and for the trained network: `exact`: all pixels of a JPEG; `scaled`:
    large JPEGs at a half, a quarter or an eighth."""
    seed: int = 0
    """Seed of initialisation, image order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            # Checked before any value is printed: a number may have thousands of digits.
            if any(
                abs(number) > _MOST
                for number in (value if isinstance(value, tuple) else (value,))
                if type(number) is int
            ):
                raise UsageError(f"{name} is too large; it must be at most {_MOST:,}")
        for name in ("epochs", "batch_size", "learning_rate", "pretrained_rate", "patience"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be greater than 0, and finite")
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
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 or more and less than 1")
        if not 0 < self.min_scale <= 1:
            raise UsageError(f"min_scale is {self.min_scale}; it must be greater than 0 and at most 1")
        if not 1 <= self.max_ratio < math.inf:
            raise UsageError(f"max_ratio is {self.max_ratio}; it must be 1 or more, and finite")
        if not 0 <= self.max_rotation <= 180:
            raise UsageError(f"max_rotation is {self.max_rotation}; it must be 0 to 180 degrees")
        if not self.random_crops and (self.min_scale, self.max_ratio, self.max_rotation) != (1, 1, 0):
            raise UsageError(
                "random_crops is false, but min_scale, max_ratio and max_rotation ask for resized crops at random "
                "places; set min_scale=1, max_ratio=1 and max_rotation=0"
            )
        if not 0 <= self.random_erasing <= 1:
            raise UsageError(f"random_erasing is {self.random_erasing}; it must be 0 to 1")
        if not 0 <= self.color_noise_epochs <= self.epochs:
            raise UsageError(
                f"color_noise_epochs is {self.color_noise_epochs}; it must be 0 to the number of epochs, {self.epochs}"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it must be 0 to {2**32 - 1}")
        if (self.schedule == "step") != bool(self.milestones):
            raise UsageError(
                f"milestones is {list(self.milestones)} and schedule is {self.schedule!r}; set milestones with "
                "schedule 'step', and only then"
            )
        if list(self.milestones) != sorted({number for number in self.milestones if number > 1}):
            raise UsageError(f"milestones is {list(self.milestones)}; it must hold ascending epochs, 2 or later")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs}; with schedule 'cosine' it must be less than epochs, "
                f"{self.epochs}: for example --set warmup_epochs=0"
            )


_FIELDS = tuple(name for name in Recipe.__struct_fields__ if name != "name")
_REQUIRED = tuple(field.name for field in msgspec.structs.fields(Recipe) if field.required and field.name != "name")
_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Recipe).items() if get_origin(kind) is Literal}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def recipe_by_name(name: str) -> Recipe:
    """Return a shipped recipe by its name, or the recipe in a file if the name ends in .toml.

    Raises UsageError for an unknown name, an unreadable file, or an invalid recipe; the error names the field.
    """
    path = _path_of(name)
    return _recipe({"name": path.stem}, _resolved(path), subject=str(path))


def recipe_header(name: str) -> str:
    """Return the comment at the top of a recipe's file; raises UsageError if there is no such file."""
    lines = read_toml(_path_of(name)).splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("#"), lines))


def _path_of(name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    if name not in recipe_names():
        raise UsageError(
            f"{name!r} is not a recipe; use one of {', '.join(recipe_names())}, or a file whose name ends in .toml"
        )
    return _SHIPPED / f"{name}.toml"


def _resolved(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, object]:
    """Return the fields that a file sets and, if it extends another recipe, the other fields from there."""
    try:
        fields = from_toml(read_toml(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML: {error}") from error
    base = fields.pop("extends", None)
    _check_fields(fields, str(path))
    if base is None:
        return fields
    if not isinstance(base, str) or not base.isprintable():
        raise UsageError(f'{path}: extends is {base!r}; it must be the name of a recipe, such as extends = "folder"')
    # A file name is relative to the file that extends it.
    try:
        base_path = path.parent / base if base.endswith(".toml") else _path_of(base)
    except UsageError as error:
        raise UsageError(f"{path}: extends: {error}") from error
    chain = (*extending, path.resolve())
    if len(chain) > _MOST_FILES:
        raise UsageError(f"{path}: {len(chain)} recipes extend one another; at most {_MOST_FILES} may")
    if base_path.resolve() in chain:
        raise UsageError(f"{path}: extends {base}, which extends this file; break the cycle: extend a shipped recipe")
    return _resolved(base_path, chain) | fields


def with_new_names(fields: Mapping[str, Value]) -> dict[str, Value]:
    """Return the fields of a stored recipe with old names replaced by current ones."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}


def with_settings(recipe: Recipe, settings: Mapping[str, object]) -> Recipe:
    """Return the recipe with these fields changed; raises UsageError for an unknown field or an invalid value."""
    return _recipe(msgspec.to_builtins(recipe), settings, subject=f"recipe {recipe.name}")


def parse_settings(words: Sequence[str]) -> dict[str, object]:
    """Parse `FIELD=VALUE` words into fields and values; values are TOML, and a bare word is a string.

    Raises UsageError for a malformed word and for a field that is set twice.
    """
    settings: dict[str, object] = {}
    for word in words:
        field, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not field.isidentifier():
            raise UsageError(f"--set {word}: expected FIELD=VALUE")
        if field in settings:
            raise UsageError(f"--set {word}: {field} is set twice")
        is_word = _BARE_WORD.fullmatch(value) and value not in ("true", "false", "inf", "nan")
        try:
            (settings[field],) = from_toml(f'value = "{value}"' if is_word else f"value = {value}").values()
        except ValueError as error:
            raise UsageError(f"--set {_shortened(word)}: {_shortened(value)!r} is not a valid TOML value") from error
    return settings


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _recipe(known: Mapping[str, object], fields: Mapping[str, object], *, subject: str) -> Recipe:
    _check_fields(fields, subject)
    if missing := [name for name in _REQUIRED if name not in known and name not in fields]:
        raise UsageError(
            f"{subject}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; set "
            f"{'it' if len(missing) == 1 else 'them'}, or extend a shipped recipe with a line such as "
            'extends = "folder"'
        )
    for name, choices in _CHOICES.items():
        if fields.get(name, choices[0]) not in choices:
            raise UsageError(f"{subject}: {name} is {fields[name]!r}; it must be one of {', '.join(choices)}")
    try:
        return msgspec.convert({**known, **fields}, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"{subject}: {invalid_value_words(error)}") from error
    except UsageError as error:
        raise UsageError(f"{subject}: {error}") from error


def _check_fields(names: Iterable[str], subject: str) -> None:
    for name in names:
        if name in RENAMED:
            raise UsageError(f"{subject}: {name} was renamed; use {RENAMED[name]}")
        if name not in _FIELDS:
            raise UsageError(f"{subject}: {name} is not a recipe field; {_nearest(name)}")


def _nearest(name: str) -> str:
    """Return a hint for an unknown field name: the closest fields, or all of them."""
    parts = [field for field in _FIELDS if name in field]
    if near := difflib.get_close_matches(name, _FIELDS, n=1) or parts:
        return f"did you mean {' or '.join(near)}?"
    return f"the fields are {', '.join(_FIELDS)}"
