"""Dates of scenes: read from the files' names, and several of one place as samples, as a stack, or as pre and post."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from raremap.errors import SceneError, nearest
from raremap.options import Options

if TYPE_CHECKING:
    from raremap.scene.sources import SceneSource

SLOT = "{date}"
"""What stands for the date in a pattern of files."""

_COMMON = r"\d{4}(?:-?\d{2}(?:-?\d{2}(?:T\d{2}:?\d{2}(?::?\d{2})?Z?)?)?)?"
_DIRECTIVES = {
    **dict.fromkeys("mdHMSUWy", r"\d{2}"),
    **{"Y": r"\d{4}", "j": r"\d{3}", "b": r"[^\W\d_]{3,4}", "B": r"[^\W\d_]+", "f": r"\d{1,6}", "%": "%"},
}
_SIDES = ("pre", "post")


class DatesOptions(Options):
    """How the dates of a place are used, and where they stand in the files' names.

    `kind`: `separate` makes each date a sample of the same place; `stack` puts the bands of all dates into
    one image, as `red@2024-04-12`; `pre_post` makes two, `pre_red` and `post_red`: of the only two dates of a
    place, or of the last before `event` and the first from it on.

    A date stands where a pattern has `{date}`, or is what the regular expression `pattern` finds in a file's
    path (its first group, if it has one), outside of what is the same for all. It reads as 2024-04-12,
    20240412, 202404 or 2024; `format` is another form (of strptime), `of` gives the date of each text.
    `names` calls the dates of a stack by their order, for places that were not seen on the same days.
    """

    kind: Literal["separate", "stack", "pre_post"] = "separate"
    pattern: str | None = None
    format: str | None = None
    of: dict[str, str] = Field(default_factory=dict)
    names: list[str] | None = None
    event: str | None = None

    @field_validator("of", mode="before")
    @classmethod
    def _texts(cls, of: Any) -> Any:
        # YAML reads 2024-04-12 as a date and 2024 as a number.
        return {str(k): str(v) for k, v in of.items()} if isinstance(of, dict) else of

    @field_validator("event", mode="before")
    @classmethod
    def _event(cls, event: Any) -> Any:
        return None if event is None else _iso(str(event))

    @field_validator("of")
    @classmethod
    def _dates(cls, of: dict[str, str]) -> dict[str, str]:
        return {text: _iso(date) for text, date in of.items()}

    @model_validator(mode="after")
    def _consistent(self) -> DatesOptions:
        if self.of and self.format:
            raise ValueError("give either of (the date of each text) or format (how all are written)")
        if self.names is not None and self.kind != "stack":
            raise ValueError("names is for a stack of dates (kind: stack)")
        if self.event is not None and self.kind != "pre_post":
            raise ValueError("event is for kind: pre_post")
        if self.names is not None and len(set(self.names)) != len(self.names):
            raise ValueError("names of dates must differ")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression ({error})") from None
        if self.format is not None:
            _form(self.format)
        return self

    @property
    def form(self) -> str:
        """A regular expression of what stands for a date."""
        if self.of:
            known = "|".join(re.escape(text) for text in sorted(self.of, key=len, reverse=True))
        else:
            known = _form(self.format) if self.format else _COMMON
        return f"{known}|{'|'.join(_SIDES)}" if self.kind == "pre_post" else known

    def read(self, text: str, path: str) -> str:
        """The ISO date of a text ("pre" and "post" stay); raises `SceneError` naming the file it is from."""
        if self.kind == "pre_post" and text in _SIDES:
            return text
        if self.of:
            if text not in self.of:
                raise SceneError(
                    f"{path} is of '{text}', which scenes.dates.of does not list; {nearest(text, self.of)}"
                )
            return self.of[text]
        try:
            return _parsed(text, self.format) if self.format else _iso(text)
        except ValueError:
            expected = f"of the form {self.format}" if self.format else "such as 2024-04-12 or 20240412"
            raise SceneError(
                f"{path}: '{text}' is not a date {expected}; "
                "say how dates are written in scenes.dates.format, or list them in scenes.dates.of"
            ) from None

    def find(self, path: str, head: int, needed: bool = True) -> tuple[str, tuple[int, int]] | None:
        """The date that `pattern` finds in a path after its first `head` characters, and where it stands."""
        assert self.pattern is not None
        match = re.compile(self.pattern).search(path, head)
        if match is None:
            if not needed:
                return None
            raise SceneError(
                f"scenes.dates.pattern '{self.pattern}' finds no date in {path}; correct one of them"
            )
        group = 1 if match.re.groups else 0
        return self.read(match[group], path), match.span(group)


def _form(strptime: str) -> str:
    """A regular expression of what a format of strptime reads."""
    out = ""
    for part in re.findall(r"%.|[^%]+|%$", strptime, re.DOTALL):
        if part[0] == "%" and part[1:] not in _DIRECTIVES:
            raise ValueError(
                f"format has {part}, which is not known here; use {' '.join('%' + d for d in _DIRECTIVES)}"
            )
        out += _DIRECTIVES[part[1:]] if part[0] == "%" else re.escape(part)
    return out


def _parsed(text: str, form: str) -> str:
    """The ISO date of a text in a format of strptime, as exact as the format is."""
    when = datetime.strptime(text, form)
    if "%H" in form:
        return when.isoformat(timespec="seconds")
    if "%d" in form or "%j" in form:
        return when.strftime("%Y-%m-%d")
    return when.strftime("%Y-%m" if re.search("%[mbB]", form) else "%Y")


def _iso(text: str) -> str:
    """The ISO day, month or year of a text in one of the common forms."""
    if not re.fullmatch(_COMMON, text):
        raise ValueError(f"'{text}' is not a date such as 2024-04-12")
    digits = text.split("T")[0].replace("-", "")
    return _parsed(digits, {4: "%Y", 6: "%Y%m", 8: "%Y%m%d"}[len(digits)])


def combined(scenes: Sequence[SceneSource], options: DatesOptions) -> list[SceneSource]:
    """The scenes that are worked with: one for each date of a site, or one of all its dates.

    Raises `SceneError` where a site has not the dates that are needed.
    """
    by_site = [list(dates) for _, dates in groupby(sorted(scenes, key=_order), key=lambda s: s.site)]
    for dates in by_site:
        for one, other in pairwise(dates):
            if one.date == other.date and one.date is not None:
                raise SceneError(
                    f"{one.images[0]} and {other.images[0]} are both {one.site} on {one.date}; "
                    "remove one, put a wildcard where their paths differ, or give the time in scenes.dates.format"
                )
    if options.kind == "separate":
        return list(scenes)
    for scene in scenes:
        if scene.date is None:
            raise SceneError(
                f"scenes.dates is '{options.kind}', but {scene.images[0]} has no date; "
                "put {date} into the pattern where it stands"
            )
    picked = [_pre_post(d, options) if options.kind == "pre_post" else d for d in by_site]
    if options.kind == "pre_post":
        return [_joined(d, ["pre_{}", "post_{}"], d[1].mask, d[1].weights) for d in picked]
    return [
        _joined(d, _tags(d, picked[0], options), _shared(d, "mask"), _shared(d, "weights")) for d in picked
    ]


def _order(scene: SceneSource) -> tuple[str, str]:
    # "post" would sort before "pre".
    return scene.site, {"pre": "0", "post": "1"}.get(scene.date or "", scene.date or "")


def _pre_post(dates: list[SceneSource], options: DatesOptions) -> list[SceneSource]:
    if options.event is not None:
        # 2024-04 is not before 2024-04-12: only what is as exact is compared.
        before = [d for d in dates if (d.date or "") < options.event[: len(d.date or "")]]
        after = [d for d in dates if d not in before]
        pair = [*before[-1:], *after[:1]]
        wanted = f"one before the event of {options.event} and one from it on"
    else:
        pair, wanted = dates, "two (scenes.dates.event picks two of more)"
    if len(pair) != 2 or None in (pair[0].date, pair[1].date):
        listed = ", ".join(str(d.date) for d in dates)
        raise SceneError(
            f"scene {dates[0].site} ({dates[0].images[0]}) has the dates {listed}; pre and post need {wanted}"
        )
    return pair


def _tags(dates: list[SceneSource], first: list[SceneSource], options: DatesOptions) -> list[str]:
    here, there = ([str(d.date) for d in scene] for scene in (dates, first))
    if options.names is not None:
        if len(here) != len(options.names):
            raise SceneError(
                f"scene {dates[0].site} has {len(here)} dates ({', '.join(here)}), but scenes.dates.names gives "
                f"{len(options.names)} ({', '.join(options.names)})"
            )
        return [f"{{}}@{name}" for name in options.names]
    if here != there:
        raise SceneError(
            f"scene {dates[0].site} has the dates {', '.join(here)}, but {first[0].site} has {', '.join(there)}; "
            "name the dates of a stack by their order in scenes.dates.names"
        )
    return [f"{{}}@{date}" for date in here]


def _shared(dates: list[SceneSource], what: Literal["mask", "weights"]) -> str | None:
    """The one mask, or the one file of weights, of a stack of dates."""
    files = sorted({path for d in dates if (path := getattr(d, what)) is not None})
    if len(files) > 1:
        verb, one, key = (
            ("label", "one mask", "masks") if what == "mask" else ("weigh", "one weight", "weights")
        )
        raise SceneError(
            f"{files[0]} and {files[1]} both {verb} {dates[0].site}; a stack of dates has {one}: "
            f"take {{date}} out of scenes.{key}, or name one date there"
        )
    return files[0] if files else None


def _joined(
    dates: list[SceneSource], tags: Sequence[str], mask: str | None, weights: str | None
) -> SceneSource:
    """One scene of the files of several dates; `tags` are made of their bands' names."""
    bands = None
    if all(d.bands for d in dates):
        bands = tuple(tag.format(b) for d, tag in zip(dates, tags, strict=True) for b in d.bands or ())
    known = [d.date for d in dates if d.date not in (None, *_SIDES)]
    for d in dates:
        for (name, here), (_, first) in zip(d.layers, dates[0].layers, strict=True):
            if here != first:
                raise SceneError(
                    f"{first} and {here} are both the layer '{name}' of {d.site}; several dates share one: "
                    "take {date} out of its pattern in scenes.layers, or make it a band of the images"
                )
    return replace(
        dates[0],
        name=dates[0].site,
        images=tuple(path for d in dates for path in d.images),
        mask=mask,
        weights=weights,
        bands=bands,
        date="/".join(str(d) for d in known) or None,
        clouds=tuple(path for d in dates for path in d.clouds),
        tags=tuple(tag for d, tag in zip(dates, tags, strict=True) for _ in d.images),
    )
