"""A stretch of days, as a user writes it."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import date

from raremap.errors import AcquireError

_SHAPES = re.compile(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?")


@dataclass(frozen=True)
class Period:
    """The days from `first` to `last`, both included."""

    first: date
    last: date

    @classmethod
    def read(cls, text: str, today: date | None = None) -> Period:
        """The period of `A/B`, or of A alone; each is a day, a month or a year, and B may be `..`, which is today.

        >>> print(Period.read("2024-03-05/2024-04"))
        2024-03-05/2024-04-30
        >>> print(Period.read("2023"))
        2023-01-01/2023-12-31
        """
        start, bar, end = text.strip().partition("/")
        first = _day(start, text, last=False)
        if not bar:
            final = _day(start, text, last=True)
        elif end.strip() in ("..", ""):
            final = today or date.today()
        else:
            final = _day(end, text, last=True)
        if final < first:
            raise AcquireError(f"dates {text} end before they begin; give the earlier one first")
        return cls(first, final)

    def __str__(self) -> str:
        return f"{self.first}/{self.last}"


def _day(part: str, text: str, last: bool) -> date:
    wanted = "give --dates as 2024-04-01/2024-09-30, 2024-04/2024-09 or 2024"
    found = _SHAPES.fullmatch(part.strip())
    if found is None:
        raise AcquireError(f"'{part}' in dates {text} is not a day, a month or a year; {wanted}")
    year, month, day = (int(g) if g else None for g in found.groups())
    assert year is not None
    try:
        month = month or (12 if last else 1)
        day = day or (calendar.monthrange(year, month)[1] if last else 1)
        return date(year, month, day)
    except (ValueError, calendar.IllegalMonthError):
        raise AcquireError(f"'{part}' in dates {text} is not in the calendar; {wanted}") from None
