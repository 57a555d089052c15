"""Recipes printed as commented TOML files."""

import tomllib
from pathlib import Path

import msgspec
import pytest
from commands import Run

from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.train.recipe import Recipe, recipe_by_name, recipe_names
from alexnet_deploy.train.recipe_text import field_notes, recipe_as_toml

FIELDS = [name for name in Recipe.__struct_fields__ if name != "name"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_recipe_reads_back_as_the_same(name: str, run: Run, tmp_path: Path) -> None:
    printed = run("recipes", name)
    assert (printed.code, printed.err) == (0, "")
    copy = tmp_path / "my.toml"
    copy.write_text(printed.out)
    assert msgspec.structs.replace(recipe_by_name(str(copy)), name=name) == recipe_by_name(name)
    assert list(tomllib.loads(printed.out)) == FIELDS
    assert max(map(len, printed.out.splitlines())) <= 120


def test_the_help_names_every_architecture_and_recipe(run: Run) -> None:
    said = " ".join(run("train", "--help").out.replace("│", " ").split())
    *architectures, last = sorted(ARCHITECTURES)
    assert f"{', '.join(architectures)} or {last}." in said
    assert f"{', '.join(recipe_names())}, or a .toml file" in said


def test_every_field_stands_below_what_explains_it() -> None:
    assert list(field_notes()) == ["name", *FIELDS]
    header, *parts = recipe_as_toml("folder").split("\n\n")
    assert header.startswith("# For a folder of a few thousand photographs.\n# Source: ")
    for name, part in zip(FIELDS, parts, strict=True):
        *comment, value = part.strip().splitlines()
        assert value.startswith(f"{name} = ")
        assert " ".join(line.removeprefix("# ") for line in comment) == field_notes()[name]


def test_a_file_of_ones_own_is_printed_whole(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("# Ours.\nextends = 'folder'\nschedule = 'step'\nmilestones = [5, 9]\ncompile = true\n")
    printed = recipe_as_toml(str(mine))
    assert printed.startswith("# Ours.\n\n# Passes over the training images.\nepochs = 24\n\n")
    (tmp_path / "copy.toml").write_text(printed)
    found = msgspec.structs.replace(recipe_by_name(str(tmp_path / "copy.toml")), name="mine")
    assert found == recipe_by_name(str(mine))
    assert (found.milestones, found.compile) == ((5, 9), True)


def test_the_list_tells_what_each_is_for_and_its_source(run: Run) -> None:
    outcome = run("recipes")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(recipe_names())
    assert "paper      For ImageNet, as the paper describes it." in lines
    assert "           Source: Krizhevsky et al. 2012, sections 4.1 and 5." in lines
    assert (
        outcome.err
        == "next: alexnet-deploy recipes folder > my.toml, then alexnet-deploy train images/ --recipe my.toml\n"
    )
