"""The published data sets: what there is, what is fetched, and where it lies."""

import argparse

from rich.table import Table

from training.data import catalogue
from training.terminal import console, say

HELP = "the data sets, or fetch some"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="data sets to fetch")


def run(options: argparse.Namespace) -> None:
    from training.data.fetch import locate

    for name in options.names:
        say(f"{name}: {locate(name)}")
    if not options.names:
        table = Table("data set", "task", "where", "licence", "what", box=None)
        for row in catalogue():
            table.add_row(row.name, row.task, row.where, row.licence, row.what)
        console.print(table)
