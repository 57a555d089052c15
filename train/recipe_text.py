"""Recipes as text: a summary of each shipped recipe, and any recipe as a commented TOML file."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache

from alexnet_deploy.core.fs.reading import toml_value
from alexnet_deploy.train.recipe import Recipe, recipe_by_name, recipe_header, recipe_names

_WIDTH = 120


@cache
def field_notes() -> dict[str, str]:
    """Return the meaning of each recipe field, in field order, from the docstrings of Recipe."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(Recipe))).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for field, docstring in zip(definition.body, definition.body[1:], strict=False):
        match field, docstring:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(note))):
                notes[name] = " ".join(note.split())
    return notes


def recipe_summaries() -> Iterator[tuple[str, str, str]]:
    """Yield the name, purpose and source of each shipped recipe, each one line."""
    for name in recipe_names():
        purpose, source, *_ = recipe_header(name).splitlines()
        yield name, purpose.removeprefix("# "), source.removeprefix("# ")


def recipe_as_toml(name: str) -> str:
    """Return a recipe as a TOML file with every field, each below a comment that explains it.

    Reading it back gives the same recipe under another name. Raises UsageError if there is no such recipe.
    """
    recipe = recipe_by_name(name)
    parts = [recipe_header(name)]
    for field, note in field_notes().items():
        if field != "name":
            comment = textwrap.fill(note, _WIDTH, initial_indent="# ", subsequent_indent="# ")
            parts.append(f"{comment}\n{field} = {toml_value(getattr(recipe, field))}")
    return "\n\n".join(part for part in parts if part) + "\n"
