"""A place and a date: which day is fetched, with a stand-in for the download."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from raremap.errors import SceneError
from raremap.serve import place
from raremap.serve.models import Model

MODEL = Model("m", "", "m", "", ("red",), (), 255, None, 20.0, {})
TASK = {"bbox": [2.0, 41.0, 2.1, 41.1], "date": "2024-07-10", "max_pixels": 1000}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the stand-in was asked; it finds three days, of which 2024-07-09 holds no data in the place."""
    calls: list[dict] = []

    def acquire(out: Path, dates: str, **more):
        calls.append({"dates": dates, **more})
        found = [
            SimpleNamespace(date=d, cloud=c)
            for d, c in [("2024-06-30", 1), ("2024-07-09", 9), ("2024-07-12", 3)]
        ]
        images = () if dates.startswith("2024-07-09") else (Path(out) / f"{dates[:10]}.tif",)
        return SimpleNamespace(size=(30, 30), found=found, images=images)

    monkeypatch.setattr("raremap.workflows.acquire.acquire", acquire)
    return calls


def test_the_nearest_day_with_data_is_fetched_at_the_model_s_resolution(
    asked: list[dict], tmp_path: Path
) -> None:
    got = place.fetch(TASK, None, MODEL, tmp_path)  # type: ignore[arg-type]
    assert got == tmp_path / "2024-07-12.tif"
    assert [c["dates"] for c in asked] == [
        "2024-06-25/2024-07-25",
        "2024-07-09/2024-07-09",
        "2024-07-12/2024-07-12",
    ]
    assert asked[0]["dry_run"]
    assert {c["resolution_m"] for c in asked} == {20.0}


def test_a_box_of_too_many_pixels_is_refused_before_anything_is_fetched(
    asked: list[dict], tmp_path: Path
) -> None:
    with pytest.raises(SceneError, match="the box is 30 x 30 pixels, at most 100 in all are taken"):
        place.fetch({**TASK, "max_pixels": 100}, None, MODEL, tmp_path)  # type: ignore[arg-type]
    assert len(asked) == 1


@pytest.mark.parametrize("there", [True, False])
def test_places_are_taken_where_the_extra_is_installed(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(place, "find_spec", lambda name: object() if there else None)
    assert place.can_fetch() is there
    assert "raremap[acquire]" in place.missing_line()
