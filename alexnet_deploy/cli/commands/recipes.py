"""`alexnet-deploy recipes`."""

from typing import Annotated

import typer


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A built-in recipe, or a .toml file. Default: list the built-in ones.")
    ] = None,
) -> None:
    """List the training recipes, or print one as TOML with every field explained."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.train.recipe_text import recipe_as_toml, recipe_summaries

    if name is not None:
        typer.echo(recipe_as_toml(name), nl=False)
        return
    summaries = list(recipe_summaries())
    width = max(len(name) for name, *_ in summaries)
    for shipped, purpose, source in summaries:
        typer.echo(f"{shipped:<{width}}  {purpose}")
        typer.echo(f"{'':<{width}}  {source}")
    say("next: alexnet-deploy recipes folder > my.toml, then alexnet-deploy train images/ --recipe my.toml")
