"""The command line as a user meets it, run in this process."""

from __future__ import annotations

import warnings

import pytest

from raremap import cli


def raremap(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("sys.argv", ["raremap", *map(str, words)])
        patch.setattr("warnings.showwarning", warnings.showwarning)
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    out = capsys.readouterr()
    return code, out.out, out.err
