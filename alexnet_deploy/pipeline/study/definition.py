"""Studies as data: a base, variants that change one thing each, and the claim that they test.

Studies are TOML files; those in `train/studies/` are shipped and known by name. `alexnet-deploy study NAME` prints one.
"""

import math
import re
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

import alexnet_deploy.train
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.reading import from_toml, invalid_value_words, read_toml
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
from alexnet_deploy.pipeline.study.tables import LayerValue, TableChange, changed_table
from alexnet_deploy.pipeline.study.views import check_views
from alexnet_deploy.train.recipe import Recipe, recipe_by_name, with_settings

FieldValue: TypeAlias = int | float | str | bool | tuple[int, ...]
Expectation: TypeAlias = Literal["lower", "higher"]
Metric: TypeAlias = Literal["accuracy", "epochs"]
StudyPrecision: TypeAlias = Literal["fp32", "fp16", "int8"]

BASE = "base"
"""Name of the base among the variants: in file names and in csv."""

_SHIPPED = Path(alexnet_deploy.train.__path__[0]) / "studies"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
_MOST_VARIANTS = 30


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run must reach, on the training images, centre view, without dropout; `epochs` counts until then."""

    of: Literal["error", "loss"]
    """`error`: the top-1 error; `loss`: the cross-entropy."""
    share: float
    """The error, 0..1, or the share of ln K, the loss of random guessing."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"target: share must be greater than 0 and less than 1, got {self.share}")


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base with one thing changed: its table, its recipe, its images, or how it is evaluated."""

    name: str
    """Short name, for file names: small letters, digits, - and `.`."""
    label: str = ""
    """Name in the report; the name unless given."""
    expect: Expectation | None = None
    """The claim: the difference of this variant to the base, or the ratio, is lower or higher than `bound`; without it,
    no verdict."""
    bound: float = 0.0
    """In points of top-1, negative if the variant is below the base; or as a ratio of epochs (0: 1)."""
    remove: tuple[str, ...] = ()
    """Layers to remove: types or names."""
    layers: dict[str, dict[str, LayerValue]] = {}
    """Fields of layers to change, by type or name."""
    width: float = 1.0
    """Factor of the kernels of each convolution but the last."""
    recipe: str = ""
    """Another recipe."""
    fields: dict[str, FieldValue] = {}
    """Fields of the recipe to change."""
    images: float = 1.0
    """Share of the training images, 0..1, with so many more epochs that as many images are seen."""
    views: str = ""
    """Views at test time: center, five, ten or grid-N. The weights are those of the base."""
    precision: StudyPrecision | None = None
    """Precision at test time. The weights are those of the base."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == BASE:
            raise ValueError(
                f"variant {self.name!r}: name must have 1 to 40 small letters, digits, - and ., and not be {BASE}"
            )
        kinds = {
            "table": bool(self.remove or self.layers) or self.width != 1,
            "recipe": bool(self.recipe or self.fields),
            "images": self.images != 1,
            "views": bool(self.views),
            "precision": self.precision is not None,
        }
        changed = [name for name, is_changed in kinds.items() if is_changed]
        if len(changed) != 1:
            found = " and ".join(changed) or "nothing"
            raise ValueError(
                f"variant {self.name}: changes {found}; it must change one of the table (remove, layers, width), the "
                "recipe (recipe, fields), images, views or precision"
            )
        if not 0 < self.images <= 1:
            raise ValueError(f"variant {self.name}: images must be greater than 0 and at most 1, got {self.images}")
        if not 0 < self.width <= 8:
            raise ValueError(f"variant {self.name}: width must be greater than 0 and at most 8, got {self.width}")
        if not math.isfinite(self.bound) or (self.bound and self.expect is None):
            raise ValueError(f"variant {self.name}: bound must be finite and needs expect, got {self.bound}")
        if "seed" in self.fields:
            raise ValueError(f"variant {self.name}: sets seed, but all variants have the same seeds (--seeds)")
        if self.views:
            check_views(self.views, f"variant {self.name}")

    @property
    def shown(self) -> str:
        """Its name in the report."""
        return self.label or self.name

    @property
    def is_trained(self) -> bool:
        """Whether it needs weights of its own."""
        return not self.views and self.precision is None

    @property
    def table_change(self) -> TableChange:
        """What it changes in the table."""
        return TableChange(remove=self.remove, layers=self.layers, width=self.width)


class Study(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim, a base, and variants of it."""

    name: str
    """Name of the file, without .toml."""
    claim: str
    """The claim as a sentence; the expectations of the variants say it in numbers."""
    source: str
    """Where it is made."""
    figure: str
    """The source's own number."""
    architecture: str
    """Name of a member of the family, or a TOML file relative to this one."""
    recipe: str
    """Name of a recipe, or a TOML file relative to this one."""
    fields: dict[str, FieldValue] = {}
    """Fields of the recipe to change in all variants."""
    base: str = BASE
    """Name of the base in the report."""
    metric: Metric = "accuracy"
    """`accuracy`: top-1; `epochs`: the epochs to the target, compared as ratios."""
    views: str = "ten"
    """Views whose top-1 is compared."""
    target: Target | None = None
    """With metric `epochs`: what must be reached."""
    search: dict[str, tuple[float, ...]] = {}
    """One field of the recipe with values to try: each trained variant uses its best, found with one seed more."""
    held_out: int = 0
    """Validation images, evenly spread, on which no epoch is chosen and the results are measured; 0: all, and on them
    epochs are chosen too."""
    details: bool = False
    """Whether the report has the learning curve, the confusion matrix and the errors of one run of each variant."""
    variants: tuple[Variant, ...]

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not 1 <= len(names) <= _MOST_VARIANTS or len(set(names)) != len(names):
            raise ValueError(f"variants must be 1 to {_MOST_VARIANTS}, each with another name, got {', '.join(names)}")
        for value, what in ((self.claim, "claim"), (self.source, "source"), (self.figure, "figure")):
            if not value.strip() or not value.isprintable():
                raise ValueError(f"{what} must be one line of text")
        check_views(self.views, "views")
        if (self.metric == "epochs") != (self.target is not None):
            raise ValueError("target and metric 'epochs' belong together; set both or neither")
        if self.metric == "epochs" and (untrained := [one.name for one in self.variants if not one.is_trained]):
            raise ValueError(f"variant {untrained[0]}: changes the evaluation, which metric 'epochs' does not use")
        if self.metric == "epochs" and (negative := [one.name for one in self.variants if one.bound < 0]):
            raise ValueError(f"variant {negative[0]}: bound is a ratio of epochs and must be greater than 0")
        if self.search and (self.metric != "epochs" or len(self.search) != 1 or not all(self.search.values())):
            raise ValueError("search must have one field with values to try, and needs metric 'epochs'")
        for variant in self.variants:
            if searched := [field for field in self.search if field in variant.fields]:
                raise ValueError(f"variant {variant.name}: sets {searched[0]}, which the study searches")
        if self.views != "ten" and any(variant.precision for variant in self.variants):
            raise ValueError("a variant with a precision is run with ten views: views must be ten")
        if self.held_out < 0:
            raise ValueError(f"held_out must be 0 or more, got {self.held_out}")

    @property
    def trained_variants(self) -> tuple[Variant | None, ...]:
        """The variants that are trained, the base, None, first."""
        return (None, *(variant for variant in self.variants if variant.is_trained))

    def label_of(self, variant: Variant | None) -> str:
        """Return the name of a variant, or of the base, in the report."""
        return self.base if variant is None else variant.shown


def name_of(variant: Variant | None) -> str:
    """Return the name of a variant in file names and in csv."""
    return BASE if variant is None else variant.name


def study_names() -> tuple[str, ...]:
    """Return the names of the shipped studies, sorted."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def study_text(name: str) -> str:
    """Return the file of a shipped study, or of a path that ends in .toml; raises UsageError if there is none."""
    return read_toml(_path_of(name))


def study_summaries() -> Iterator[tuple[str, str, str]]:
    """Yield the name, purpose and source of each shipped study, each one line."""
    for name in study_names():
        header = takewhile(lambda line: line.startswith("#"), study_text(name).splitlines())
        purpose, source, *_ = (line.removeprefix("# ") for line in header)
        yield name, purpose, source


def study_by_name(name: str) -> Study:
    """Return a shipped study by its name, or the study in a file if the name ends in .toml.

    Raises UsageError for an unknown name, an unreadable file or an invalid study; the error names the variant.
    """
    path = _path_of(name)
    text = study_text(name)
    try:
        return msgspec.convert({"name": path.stem, **from_toml(text)}, Study)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {invalid_value_words(error)}") from error


def table_of(study: Study, name: str, arch: str | None) -> Architecture:
    """Return the table of the base: `arch`, or that of the study, relative to the study's file."""
    return architecture_by_name_or_file(arch if arch is not None else _beside(name, study.architecture))


def recipe_of(study: Study, name: str, settings: dict[str, object]) -> Recipe:
    """Return the recipe of the base: that of the study, its fields, then `settings`."""
    return with_settings(recipe_by_name(_beside(name, study.recipe)), {**study.fields, **settings})


def variant_recipe(
    study: Study, name: str, variant: Variant | None, base: Recipe, settings: dict[str, object]
) -> Recipe:
    """Return the recipe of a variant of a study, given that of the base and the settings of the command."""
    if variant is None or not (variant.recipe or variant.fields):
        return base
    if not variant.recipe:
        return with_settings(base, dict(variant.fields))
    return with_settings(recipe_by_name(_beside(name, variant.recipe)), {**study.fields, **settings, **variant.fields})


def variant_table(variant: Variant | None, base: Architecture) -> Architecture:
    """Return the table of a variant; raises UsageError if the change does not fit the base."""
    if variant is None or not variant.table_change:
        return base
    return changed_table(base, variant.table_change, variant.name)


def _beside(study: str, name: str) -> str:
    """Return the name of a recipe or a table; a file is relative to the study's file."""
    return str(_path_of(study).parent / name) if name.endswith(".toml") else name


def _path_of(name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    if name not in study_names():
        raise UsageError(
            f"{name!r} is not a study; use one of {', '.join(study_names())}, or a file whose name ends in .toml"
        )
    return _SHIPPED / f"{name}.toml"
