"""The application, the arguments that verbs share, and how results and faults are shown."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

_Number = TypeVar("_Number", int, float)

app = typer.Typer(
    name="raremap",
    help="Maps from satellite scenes that do not lose the rare classes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentArg = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment file (YAML)")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="override one key; may be repeated")
]
RootOption = Annotated[Path | None, typer.Option("--root", help="folder that holds the data (scenes.root)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")]
TtaOption = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta", help="average over all eight flips and quarter turns (default: the bundle's)"
    ),
]
FlipsOption = Annotated[bool, typer.Option("--flips", help="average over the flips only, four of the eight")]
ScalesOption = Annotated[str, typer.Option(help="average over resolutions, such as 1,0.5")]
RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="share the work on a Ray cluster, or local")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="--ray: so many workers (default: one a processor or GPU)")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]


def _version(wanted: bool) -> None:
    if wanted:
        import raremap

        print(f"raremap {raremap.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Maps from satellite scenes that do not lose the rare classes."""


def numbers(text: str, option: str, kind: type[_Number]) -> list[_Number]:
    """Numbers with commas between; wrong usage names the option."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(
            f"'{text}' is not a list of {what} with commas between", param_hint=option
        ) from None


def averaging(tta: bool | None, flips: bool, scales: str) -> dict[str, Any]:
    """What `--tta`, `--flips` and `--scales` ask for, as arguments of a workflow."""
    if flips and tta is not None:
        raise typer.BadParameter("--flips and --tta are two ways; give one", param_hint="--flips")
    return {"tta": "flips" if flips else tta, "scales": numbers(scales, "--scales", float) or None}


def read_experiment(path: Path, overrides: list[str] | None, root: Path | None) -> Any:
    """The experiment of a file, with what the command line changes in it."""
    from raremap.config import Experiment

    return Experiment.load(path, changes(overrides, root))


def changes(overrides: list[str] | None, root: Path | None) -> list[str]:
    """What `--set` and `--root` change, as overrides."""
    more = [f"scenes.root={json.dumps(str(root))}"] if root is not None else []
    return [*(overrides or []), *more]


def show(result: Any, as_json: bool) -> None:
    """Print a result: its JSON object and nothing else, or its text."""
    if as_json:
        from raremap.plain import plain

        data = result.to_dict() if hasattr(result, "to_dict") else result
        print(json.dumps(plain(data), allow_nan=False))
    else:
        print(result)


def _warn(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"raremap: warning: {message}", file=sys.stderr)


_STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_TWICE_S = 5


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Within it a batch system, `docker stop` or a session that closes ends a job as Ctrl-C does; gives what came.

    What nohup and the like have set stays. A terminal that closes may say so twice: what follows at once does not cut
    the cleaning up short.
    """
    came: list[int] = []
    own, before, last = os.getpid(), {}, float("-inf")

    def stop(number: int, _: Any) -> None:
        nonlocal last
        if os.getpid() != own:  # a process that was forked off
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif time.monotonic() - last > _TWICE_S:
            last = time.monotonic()
            came.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, stop) for s in _STOPS if signal.getsignal(s) is signal.SIG_DFL}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command line; exit 0 on success, 2 on wrong usage or bad input, 1 on a failure of ours.

    A job that was stopped exits with 130 after Ctrl-C, else it ends by the signal itself, which a supervisor takes for
    an end in good order.
    """
    with _stopping() as came:
        stopped = _run()
    if stopped:
        number = came[0] if came else stopped
        with suppress(OSError):
            sys.stdout.flush()
        if number != signal.SIGINT:
            signal.raise_signal(number)
        sys.exit(128 + number)


def _run() -> int:
    """The signal that stopped the job, or 0."""
    import logging

    from raremap.errors import RaremapError, RaremapWarning

    logging.basicConfig(level=logging.WARNING, format="raremap: warning: %(message)s")
    plain = warnings.showwarning

    def shown(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        (_warn if issubclass(category, RaremapWarning) else plain)(message, category, *args, **kwargs)

    warnings.showwarning = shown
    warnings.simplefilter("ignore")  # libraries' own remarks are not for the user of a command line
    warnings.simplefilter("always", RaremapWarning)
    try:
        app()
    except RaremapError as error:
        print(f"raremap: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer turns Ctrl-C into an exit with 130, and Ray SIGTERM into one with that number.
        code = getattr(end, "code", 130)
        if code not in (130, signal.SIGTERM):
            raise
        with suppress(OSError):  # the terminal may be gone
            print("raremap: stopped; nothing half-written was left", file=sys.stderr)
        return code % 128
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    return 0
