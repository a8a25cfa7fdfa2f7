"""The recipes that come with seqserve, with what each needs and reaches."""

import argparse

from rich.table import Table

from training import recipe as recipes
from training.terminal import console

HELP = "the recipes that come with seqserve"


def add(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> None:
    table = Table("recipe", "task", "data", "expected", "what it is", box=None)
    for name in recipes.names():
        recipe = recipes.load(name)
        expected = "" if recipe.expect.score is None else f"{recipe.expect.score} in {recipe.expect.minutes:g} min"
        table.add_row(name, recipe.task, recipe.data.name or "--data FILE", expected, recipe.description)
    console.print(table)
