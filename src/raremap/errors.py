"""The exception family: one class for each thing that a user can mend.

A message is one line: what was found, in which file, what was expected, what to do.
The command line prints it after `raremap: ` and exits with 2; anything else is our failure (exit 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RaremapError(Exception):
    """A fault in the input or the usage, told in one line; the command line exits with 2."""


class SceneError(RaremapError):
    """A raster, its mask or its grid cannot be used as given."""


class LabelError(RaremapError):
    """A label value, colour or scheme does not fit."""


class TableError(RaremapError):
    """A table, its columns or its coordinates cannot be used as given."""


class CatalogError(RaremapError):
    """A catalog is missing, altered, or holds no usable tile."""


class SplitError(RaremapError):
    """The places cannot be divided into the uses that were asked for."""


class ConfigError(RaremapError):
    """An experiment file or an override says something that does not exist or cannot be."""


class BundleError(RaremapError):
    """A bundle is incomplete, altered, or does not fit the scene."""


class SampleError(RaremapError):
    """Reference points cannot be drawn, or cannot be used as they are."""


class OutputError(RaremapError):
    """An output cannot be written where it was asked for."""


class AcquireError(RaremapError):
    """Imagery cannot be found or fetched from where it was asked for."""


class MissingExtra(RaremapError):
    """An optional library is needed that is not installed.

    >>> str(MissingExtra("torch", "train"))
    "torch is not installed; it comes with the extra 'train': pip install 'raremap[train]'"
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed; it comes with the extra '{extra}': pip install 'raremap[{extra}]'"
        )


class ClusterError(RaremapError):
    """A cluster does not answer, or loses its workers again and again."""


class TrainingError(RaremapError):
    """A training cannot go on."""


class RaremapWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word nearest to `word`, or listing the known ones where none is near.

    >>> nearest("siz", ["size", "overlap"])
    "did you mean 'size'?"
    >>> nearest("zzz", ["size", "overlap"])
    'known: overlap, size'
    """
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + (", ".join(known) if known else "none")


def reason(error: BaseException, most: int = 100) -> str:
    """What a library's exception says, in one short line.

    >>> reason(ValueError("bad magic\\nat byte 0")), reason(KeyError("labels")), reason(OSError())
    ('bad magic', "key 'labels' is missing", 'OSError')
    """
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def refuse(why: str, **options: object) -> None:
    """Raise `ConfigError` for the first option that is given (not None, nor empty) and has no effect, as `why` says.

    >>> refuse("on a raster", keep=None, layer=())
    >>> refuse("on a raster", block_m=5)
    Traceback (most recent call last):
    raremap.errors.ConfigError: --block-m has no effect on a raster; leave it out
    """
    for name, value in options.items():
        if value not in (None, ()):
            raise ConfigError(f"--{name.replace('_', '-')} has no effect {why}; leave it out")
