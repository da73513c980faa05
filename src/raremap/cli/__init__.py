"""The command line: thin; a verb reads its arguments and calls one function of `workflows`.

Nothing heavier than typer is imported at the top, so that `raremap --help` is instant. The modules
below are in the order in which `--help` lists their verbs.
"""

from raremap.cli.app import app as app
from raremap.cli.app import main as main

from raremap.cli import start, acquire, data, training, tuning, maps, export, finish, areas, serve, tables  # noqa: F401  # isort: skip

__all__ = ["app", "main"]
