from __future__ import annotations

from datetime import date

import pytest

from raremap.errors import AcquireError
from raremap.scene.acquire.period import Period


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
        ("2024-04-12", date(2024, 4, 12), date(2024, 4, 12)),
        ("2023/2024-01", date(2023, 1, 1), date(2024, 1, 31)),
        ("2024-4-1/2024-4-9", date(2024, 4, 1), date(2024, 4, 9)),
        ("2026-05-01/..", date(2026, 5, 1), date(2026, 6, 30)),
    ],
)
def test_days_months_and_years_are_whole(text, first, last):
    assert Period.read(text, today=date(2026, 6, 30)) == Period(first, last)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2024-13", "not in the calendar"),
        ("2023-02-29", "not in the calendar"),
        ("April 2024", "is not a day, a month or a year"),
        ("2024-05/2024-04", "end before they begin"),
        ("", "is not a day"),
        ("2024/2025/2026", "is not a day"),
    ],
)
def test_wrong_dates_are_told(text, says):
    with pytest.raises(AcquireError, match=says):
        Period.read(text)
