"""The plan of a study: OUT/plan.json, written once and obeyed whenever the study is resumed.

It holds every table and recipe, so that a later change of a study, a recipe or a table does not change a study that has
begun.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.files import sha256, write_atomically
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.table_text import architecture_as_toml
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.pipeline.study.definition import (
    BASE,
    Study,
    recipe_of,
    study_by_name,
    table_of,
    variant_recipe,
    variant_table,
)
from alexnet_deploy.train.pack.format import PackHeader
from alexnet_deploy.train.recipe import Recipe, with_settings

PLAN = "plan.json"
PACK = "images.pack"
RUNS, SEARCH = "runs", "search"

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRequest:
    """Options of a study."""

    study: str
    """Name of a shipped study, or a TOML file."""
    data: Path
    arch: str | None = None
    """Name or TOML file of the base's table; None for the study's."""
    settings: Mapping[str, object]
    """Fields of the recipe to change in all variants."""
    seeds: int = 3
    images: int | None = None
    """Number of training images, evenly spread; None for all."""
    budget_seconds: float | None = None
    device: Literal["cpu", "cuda"] = "cpu"


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request, in words: what must be equal to resume a study."""

    study: str
    definition: str
    """Digest of the study's content."""
    data: str
    architecture: str
    table: str
    """Digest of the base's table."""
    settings: str
    recipe: str
    """Digest of the base's recipe."""
    seeds: str
    images: str
    budget: str
    device: str


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the results of a study depend on, but for the machine; the images by their digest."""

    format_version: int
    asked: Asked
    study: Study
    tables: dict[str, Architecture]
    """The table of each trained variant, with the number of classes of the images."""
    recipes: dict[str, Recipe]
    """The recipe of each trained variant; the runs have seeds of their own."""
    seeds: tuple[int, ...]
    """The seeds whose results are compared."""
    search_seed: int | None
    """The seed of the search, if the study has one."""
    num_train: int
    """Number of training images of the base."""
    data_sha256: str
    """Digest of the names and bytes of all images."""
    threads: int
    """CPU threads of a run: results depend on their number."""
    shrunk: tuple[str, ...]
    """What the budget changed, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run."""

    folder: str
    """Its directory in OUT: runs/VARIANT-SEED, or search/VARIANT-VALUE."""
    variant: str
    seed: int
    architecture: Architecture
    recipe: Recipe
    num_train: int
    """Number of its training images."""

    @property
    def is_search(self) -> bool:
        """Whether it only serves to find a value."""
        return self.folder.startswith(f"{SEARCH}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A study with the tables and recipes of its variants, before the images are known."""

    asked: Asked
    study: Study
    tables: dict[str, Architecture]
    recipes: dict[str, Recipe]


def draft(request: StudyRequest) -> Draft:
    """Return the study of a request, resolved; raises UsageError for what does not exist or fit together."""
    study = study_by_name(request.study)
    settings = dict(request.settings)
    table, recipe = table_of(study, request.study, request.arch), recipe_of(study, request.study, settings)
    if request.seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, got {request.seeds}")
    tables, recipes = {BASE: table}, {BASE: recipe}
    for variant in study.variants:
        if not variant.is_trained:
            continue
        name = variant.name
        tables[name] = variant_table(variant, table)
        recipes[name] = variant_recipe(study, request.study, variant, recipe, settings)
        # Refused here: a variant that does not differ from the base would only cost time.
        is_same = (tables[name], recipes[name]) == (table, recipe)
        if variant.images == 1 and is_same:
            raise UsageError(f"{study.name}: variant {name} does not differ from {study.base}")
        if recipes[name].decode != recipe.decode:
            raise UsageError(
                f"{study.name}: variant {name} has decode {recipes[name].decode}, but the base {recipe.decode}; the "
                "images of a study are decoded once: set decode in the study's fields"
            )
    for field, values in study.search.items():
        if field in settings:
            raise UsageError(f"--set {field}: {study.name} searches {field}; change the values in a study of your own")
        for value in values:
            with_settings(recipe, {field: value})
    return Draft(
        asked=Asked(
            study=request.study,
            definition=_digest(msgspec.json.encode(study)),
            data=str(request.data.resolve()),
            architecture=table.name,
            table=_digest(architecture_as_toml(table).encode()),
            settings=", ".join(f"{name}={value}" for name, value in sorted(settings.items())) or "none",
            recipe=_digest(msgspec.json.encode(recipe)),
            seeds=str(request.seeds),
            images="all" if request.images is None else str(request.images),
            budget="none" if request.budget_seconds is None else f"{request.budget_seconds:g} s",
            device=request.device,
        ),
        study=study,
        tables=tables,
        recipes=recipes,
    )


def _digest(data: bytes) -> str:
    return sha256(data)[:12]


def plan_of(found: Draft, request: StudyRequest, images: PackHeader, *, threads: int) -> Plan:
    """Return the plan for these images, without regard to the budget; raises UsageError if there are too few."""
    study, first = found.study, found.recipes[BASE].seed
    num_train = images.num_train if request.images is None else request.images
    if num_train > images.num_train:
        raise UsageError(f"--images {num_train}: there are {counted(images.num_train, 'training image')}")
    has_search = bool(study.search)
    recipes = dict(found.recipes)
    for variant in study.variants:
        if variant.images != 1:
            # As many images are seen as by the base: more epochs of fewer images.
            recipes[variant.name] = with_epochs(recipes[variant.name], 1 / variant.images)
    return Plan(
        format_version=FORMAT_VERSION,
        asked=found.asked,
        study=study,
        tables={name: table.with_num_classes(len(images.labels)) for name, table in found.tables.items()},
        recipes=recipes,
        seeds=tuple(range(first + has_search, first + has_search + request.seeds)),
        search_seed=first if has_search else None,
        num_train=num_train,
        data_sha256=images.source_sha256,
        threads=threads,
        shrunk=(),
    )


def with_epochs(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe with this factor of its epochs, at least one, and with its schedule stretched alike."""
    epochs = max(1, round(factor * recipe.epochs))

    def scaled(number: int, least: int = 0) -> int:
        return min(epochs, max(min(least, number), round(number * epochs / recipe.epochs)))

    milestones = sorted({max(2, scaled(epoch)) for epoch in recipe.milestones})
    return with_settings(
        recipe,
        {
            "epochs": epochs,
            "patience": max(1, round(recipe.patience * epochs / recipe.epochs)),
            "milestones": milestones,
            "warmup_epochs": min(scaled(recipe.warmup_epochs), epochs - 1),
            "early_stopping": round(recipe.early_stopping * epochs / recipe.epochs),
            "color_noise_epochs": scaled(recipe.color_noise_epochs, least=1),
        },
    )


def search_runs(plan: Plan) -> tuple[RunPlan, ...]:
    """Return the runs that find the best value of the searched field for each variant; none without a search."""
    runs = []
    for field, values in plan.study.search.items():
        for name in plan.tables:
            for value in values:
                assert plan.search_seed is not None
                run = _run(plan, name, plan.search_seed, {field: value})
                runs.append(replace(run, folder=f"{SEARCH}/{name}-{value:g}"))
    return tuple(runs)


def measured_runs(plan: Plan, found: Mapping[str, float]) -> tuple[RunPlan, ...]:
    """Return the runs whose results are compared; `found` is the best value of each variant, if there was a search."""
    changes = {name: dict.fromkeys(plan.study.search, found.get(name)) for name in plan.tables}
    return tuple(_run(plan, name, seed, changes[name]) for seed in plan.seeds for name in plan.tables)


def every_run(plan: Plan) -> tuple[RunPlan, ...]:
    """Return all runs of a study; before its search is done, with the first value of the searched field."""
    first = {name: values[0] for values in plan.study.search.values() for name in plan.tables}
    return (*search_runs(plan), *measured_runs(plan, first))


def _run(plan: Plan, name: str, seed: int, changes: Mapping[str, object]) -> RunPlan:
    share = next((variant.images for variant in plan.study.variants if variant.name == name), 1.0)
    return RunPlan(
        folder=f"{RUNS}/{name}-{seed}",
        variant=name,
        seed=seed,
        architecture=plan.tables[name],
        recipe=with_settings(plan.recipes[name], {**changes, "seed": seed}),
        num_train=max(1, round(share * plan.num_train)),
    )


def save_plan(out: Path, plan: Plan) -> None:
    """Write the plan of a study; raises OSError."""
    write_atomically(out / PLAN, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


def load_plan(out: Path) -> Plan | None:
    """Return the plan of a study that has begun; None if there is none. Raises DataError for a damaged one."""
    path = out / PLAN
    try:
        data = read_file(path, 64 * MIB)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        plan = from_json(data, Plan)
    except (msgspec.DecodeError, UsageError) as error:
        raise DataError(
            f"{path}: is not a plan of this version, or it is damaged: {error}; use another --out"
        ) from error
    if plan.format_version != FORMAT_VERSION:
        raise DataError(f"{path}: has version {plan.format_version}, this program reads {FORMAT_VERSION}")
    return plan


def refuse_other(out: Path, saved: Plan, asked: Asked) -> None:
    """Raise UsageError, naming what differs, if the study in `out` is not the one that was asked for."""
    for name in Asked.__struct_fields__:
        was, now = getattr(saved.asked, name), getattr(asked, name)
        if was != now:
            what = f"the {name} of {saved.asked.study}" if name in ("definition", "table", "recipe") else name
            raise UsageError(
                f"{out}: holds another study: {what} was {was}, now it is {now}; repeat the command that started it, "
                "or choose another --out"
            )
