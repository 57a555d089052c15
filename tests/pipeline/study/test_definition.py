"""Study files: the shipped ones, and what is refused in one's own."""

from pathlib import Path

import msgspec
import pytest
from studies import STUDY, request_of, study_in, write_study

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.pipeline.study.definition import (
    Study,
    recipe_of,
    study_by_name,
    study_names,
    study_summaries,
    study_text,
    table_of,
)
from alexnet_deploy.pipeline.study.plan import draft
from alexnet_deploy.pipeline.study.views import study_views

ROOT = Path(__file__).parents[3]

SHIPPED = (
    "augmentation",
    "columns",
    "data-size",
    "dropout",
    "init",
    "lrn",
    "pooling",
    "precision",
    "relu-tanh",
    "two-class",
    "views",
)


def test_the_shipped_studies_are_these() -> None:
    assert study_names() == SHIPPED
    assert [name for name, *_ in study_summaries()] == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_whole(name: str, tmp_path: Path) -> None:
    study = study_by_name(name)
    assert any(variant.expect is not None for variant in study.variants), "it makes a claim"
    found = draft(request_of(name, tmp_path))  # type: ignore[arg-type]
    trained = [variant.name for variant in study.variants if variant.is_trained]
    assert list(found.tables) == list(found.recipes) == ["base", *trained]
    for variant in trained:
        changes_table = found.tables[variant] != found.tables["base"]
        changes_recipe = found.recipes[variant] != found.recipes["base"]
        assert changes_table + changes_recipe == (0 if name == "data-size" else 1), "one thing is changed"


def test_the_tables_of_the_studies_are_those_of_the_documents() -> None:
    study = study_by_name("two-class")
    table = table_of(study, "two-class", None)
    assert table == architecture_by_name_or_file(str(ROOT / "docs/tables/keras-two-class.toml"))
    assert table.num_parameters == 62_380_346
    assert recipe_of(study, "two-class", {}).name == "two-class"


def test_both_pools_give_maps_of_the_same_size_in_the_small_table(tmp_path: Path) -> None:
    small = str(ROOT / "docs/tables/small.toml")
    found = draft(request_of("pooling", tmp_path, arch=small))  # type: ignore[arg-type]
    plain, base = found.tables["plain"], found.tables["base"]
    assert [cost.out_shape for cost in plain.costs()] == [cost.out_shape for cost in base.costs()]
    assert base.with_num_classes(2).num_parameters == 191_554
    assert base.with_num_classes(2).num_multiply_adds == 9_478_400


def test_a_study_is_printed_as_it_is_written(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert study_text(str(path)) == STUDY
    assert study_by_name(str(path)).name == "mine"


VARIANT = '[[variants]]\nname = "no-lrn"\nlabel = "without it"\nexpect = "lower"\nremove = ["lrn"]\n'


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ('remove = ["lrn"]', 'remove = ["lrn"]\nviews = "ten"', "variant no-lrn: changes table and views; it must"),
        ('remove = ["lrn"]', "", "variant no-lrn: changes nothing; it must change one of the table"),
        ('name = "no-lrn"', 'name = "base"', "variant 'base': name must have 1 to 40 small letters"),
        ('name = "no-lrn"', 'name = "../up"', "variant '../up': name must have"),
        (VARIANT, VARIANT * 2, "variants must be 1 to 30, each with another name, got no-lrn, no-lrn"),
        ('remove = ["lrn"]', 'views = "seven"', "variant no-lrn: views are center, five, ten or grid-2 to grid-9"),
        ('remove = ["lrn"]', "images = 1.5", "images must be greater than 0 and at most 1, got 1.5"),
        ('figure = "1 point"', 'figure = ""', "figure must be one line of text"),
        ('figure = "1 point"', 'figure = "1"\nmetric = "epochs"', "target and metric 'epochs' belong together"),
        ('figure = "1 point"', 'figure = "1"\nsearch = { learning_rate = [0.1] }', "needs metric 'epochs'"),
        ('figure = "1 point"', 'figure = "1"\nheld_out = -1', "held_out must be 0 or more, got -1"),
        ('figure = "1 point"', "", "missing required field `figure`"),
        ('figure = "1 point"', 'figure = "1"\ncolour = 3', "colour is not a known field"),
        ('expect = "lower"', 'expect = "worse"', "Invalid enum value 'worse'"),
        ("figure", "figure = = ", "is not valid TOML"),
        ('expect = "lower"', 'expect = "lower"\nbound = nan', "variant no-lrn: bound must be finite and needs expect"),
        ('expect = "lower"', "bound = -1.0", "variant no-lrn: bound must be finite and needs expect, got -1.0"),
        (
            'remove = ["lrn"]',
            "fields = { seed = 7 }",
            "variant no-lrn: sets seed, but all variants have the same seeds",
        ),
    ],
)
def test_a_faulty_study_is_refused_by_name(tmp_path: Path, was: str, now: str, words: str) -> None:
    assert was in STUDY
    with pytest.raises(UsageError) as refused:
        study_in(tmp_path, STUDY.replace(was, now, 1))
    assert str(refused.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert words in str(refused.value).replace("Object missing", "missing") or "figure is missing" in str(refused.value)


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ('remove = ["lrn"]', 'remove = ["tanh"]', "no-lrn: least has no layer tanh"),
        ('remove = ["lrn"]', "fields = { lr = 0.1 }", "lr is not a recipe field"),
        ('remove = ["lrn"]', "fields = { epochs = 2 }", "variant no-lrn does not differ from base"),
        ('remove = ["lrn"]', 'recipe = "nothing"', "'nothing' is not a recipe"),
        ('"least.toml"', '"gone.toml"', "gone.toml: cannot be read"),
        ('remove = ["lrn"]', 'layers = { lrn = { size = "large" } }', "norm1: size must be an integer, got a string"),
        ('remove = ["lrn"]', 'fields = { decode = "scaled" }', "variant no-lrn has decode scaled, but the base exact"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_any_image_is_read(
    tmp_path: Path, was: str, now: str, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        draft(request_of(write_study(tmp_path, STUDY.replace(was, now)), tmp_path / "nowhere"))
    assert words in str(refused.value)


def test_an_unknown_study_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'relu' is not a study; use one of augmentation, columns"):
        study_by_name("relu")


def test_settings_change_all_variants_but_not_what_a_variant_changes(tmp_path: Path) -> None:
    found = draft(request_of("two-class", tmp_path, settings={"epochs": 9, "random_erasing": 0.5}))  # type: ignore[arg-type]
    assert {recipe.epochs for recipe in found.recipes.values()} == {9}
    assert found.recipes["no-crops"].random_erasing == 0.5
    assert found.recipes["no-erasing"].random_erasing == 0.0
    assert found.recipes["article"].optimiser == "sgd"


def test_the_fields_of_a_study_change_the_variants_with_another_recipe_too(tmp_path: Path) -> None:
    text = STUDY.replace('remove = ["lrn"]', 'recipe = "two-class"\nfields = { batch_size = 8, warmup_epochs = 0 }')
    recipe = draft(request_of(write_study(tmp_path, text), tmp_path)).recipes["no-lrn"]
    assert recipe.name == "two-class"
    assert (recipe.epochs, recipe.learning_rate) == (2, 0.002), "those of the study"
    assert recipe.batch_size == 8, "that of the variant"


SEARCH = STUDY.replace(
    "[[variants]]",
    'metric = "epochs"\ntarget = { of = "error", share = 0.3 }\nsearch = { momentum = [0.5, 0.9] }\n[[variants]]',
)


def test_a_searched_field_is_set_by_no_variant_and_no_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set momentum: mine searches momentum"):
        draft(request_of(write_study(tmp_path, SEARCH), tmp_path, settings={"momentum": 0.8}))
    with pytest.raises(UsageError, match=r"variant no-lrn: sets momentum, which the study searches"):
        study_in(tmp_path, SEARCH.replace('remove = ["lrn"]', "fields = { momentum = 0.8 }"))


def test_a_ratio_has_no_negative_bound(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"variant no-lrn: bound is a ratio of epochs and must be greater than 0"):
        study_in(tmp_path, SEARCH.replace('expect = "lower"', 'expect = "higher"\nbound = -0.5'))


@pytest.mark.parametrize(("name", "number"), [("center", 1), ("five", 5), ("ten", 10), ("grid-3", 18), ("grid-2", 8)])
def test_views_are_distinct_and_within_the_image(name: str, number: int) -> None:
    views = study_views(name, 227)
    assert len(set(views)) == len(views) == number
    assert all(0 <= view.top <= 29 and 0 <= view.left <= 29 for view in views)


def test_a_grid_of_three_holds_the_ten_views() -> None:
    assert set(study_views("five", 226)) < set(views_by_name("ten", 226)) < set(study_views("grid-3", 226))


def test_every_field_of_a_study_is_explained_in_its_document() -> None:
    page = (ROOT / "docs/studies.md").read_text()
    fields = {field.encode_name for kind in (Study,) for field in msgspec.structs.fields(kind)} - {"name"}
    assert {name for name in fields if f"`{name}`" not in page} == set()
