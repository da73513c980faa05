"""The page of a plan, and the curves of dynamic sampling."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from tests.reports.test_page import Page

from raremap.balance.diagnosis import Diagnosis, Evenness
from raremap.balance.options import (
    Copies,
    Diao,
    InverseFrequency,
    Mixture,
    RareClass,
    RepeatFactor,
    TargetOptions,
    Uniform,
)
from raremap.balance.plan import SamplingPlan
from raremap.balance.sources import Sources
from raremap.errors import OutputError
from raremap.reports.figures import curves
from raremap.reports.overlays import heat_picture, mosaic, outlined
from raremap.reports.plan import Picture, PlanViews, sentences, write_plan_page

NAMES = ("grass", "open <b>mine</b>")
PALETTE = dict(zip(NAMES, ("#88CC66", "#882255"), strict=True))


def plan_of(options=None, repeats=(1, 2, 1), path=None) -> SamplingPlan:
    drawn = np.array(repeats, float)
    return SamplingPlan(
        tile_ids=np.array(["a", "b", "c"], object),
        weights=drawn / drawn.sum(),
        repeats=drawn,
        counts=np.array([[90, 10], [60, 40], [100, 0.0]]),
        natural=np.array([250, 50]) / 300,
        target=np.array([0.5, 0.5]),
        rare=np.array([False, True]),
        options=options or Uniform(),
        path=path,
    )


def diagnosis(plan: SamplingPlan, **more) -> Diagnosis:
    sources = Sources(np.array([3.0, np.nan]), np.array([2.5, np.nan]), np.array([1.5, np.nan]))
    present = np.ones(2, bool)
    fields = dict(
        solver=plan.options.kind, note=plan.note, names=NAMES, rare=(NAMES[1],), natural=plan.natural,
        target=plan.target, stream=plan.shares, before=Evenness.of(plan.natural, plan.target, present),
        after=Evenness.of(plan.shares, plan.target, present), places=sources, objects=sources, tiles=3,
        effective_tiles=2.7, repeated=1, unused=0, largest_repeats=2.0, composites=0, composites_drawn=0,
        composite_share=0.0, refused={},
    )  # fmt: skip
    return Diagnosis(**{**fields, **more})


def views() -> PlanViews:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    picture = Picture(
        "× 2", "tile <a>", {"imagery": photo, "labels": rng.integers(0, 2, (20, 30)).astype(np.uint8)}
    )
    return PlanViews([picture, picture], [picture], [picture])


def test_the_page_asks_for_nothing_outside_and_names_are_escaped(tmp_path: Path) -> None:
    plan = plan_of(Diao(kind="diao"), path=np.array([0.3, 0.2, 0.15]))
    path = write_plan_page(tmp_path / "p.html", plan, diagnosis(plan), views(), PALETTE, "run <1>", 64)
    page, text = Page(), path.read_text(encoding="utf-8")
    page.feed(text)
    assert page.open == []
    assert len([a for a in page.asked if a.startswith("data:image/")]) == 8
    assert all(a.startswith(("data:image/", "#")) for a in page.asked)
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert "<b>mine</b>" not in text
    assert "run &lt;1&gt;: what training sees" in text
    assert "tile &lt;a&gt;" in text
    assert text.count("<svg") == 2


def test_what_there_is_not_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(repeats=(0.5, 1.7, 0.8))
    path = write_plan_page(tmp_path / "p.html", plan, diagnosis(plan), PlanViews(), PALETTE, "run", 64)
    text = path.read_text(encoding="utf-8")
    for part in ("Drawn most often", "Composites beside", "Where crops", "while repeats are added"):
        assert part not in text
    assert "How often tiles are drawn" in text


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = plan_of()
    with pytest.raises(OutputError, match="cannot be written"):
        write_plan_page(tmp_path / "file/p.html", plan, diagnosis(plan), PlanViews(), PALETTE, "run", 64)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Uniform(), "drawn alike"),
        (Diao(kind="diao", budget=0.7), "at most 2 repeats, and no tile more than 4 times"),
        (Diao(kind="diao", score="density"), "highest density score"),
        (
            Diao(kind="diao", target=TargetOptions(a=0.5, gamma=1)),
            "to the power 0.5; while training it follows",
        ),
        (Mixture(kind="mixture", rho=0.2), "KL(target ‖ stream) + 0.2·KL(weights ‖ even)"),
        (Mixture(kind="mixture", target=TargetOptions(shares={"grass": 0.3})), "set by name: grass 0.3"),
        (Diao(kind="diao", max_repeats=2.5), "no tile more than 2 times"),
        (Copies(kind="copies", classes=("house",)), "in which one of house holds over 10%"),
        (RepeatFactor(kind="repeat_factor"), "threshold 0.001"),
        (RareClass(kind="rare_class"), "temperature 0.01"),
        (Copies(kind="copies"), "3 further copies of each tile in which a rare class holds over 10%"),
        (InverseFrequency(kind="inverse_frequency"), "power 1"),
    ],
)
def test_the_sentences_say_what_was_done(options, text) -> None:
    plan = plan_of(options)
    assert text in " ".join(sentences(plan, diagnosis(plan), 64))


@pytest.mark.parametrize(
    ("aim", "text"),
    [
        (1, "All crops of 32 × 32 are aimed: their position inside a tile is drawn by the same target."),
        (0.25, "25% of the crops of 32 × 32 are aimed: "),
        (0.25, "; the others lie anywhere."),
    ],
)
def test_the_sentences_say_how_many_crops_are_aimed(aim, text) -> None:
    plan = plan_of(Diao(kind="diao", aim=aim))
    aimed = replace(plan, grid=cast(Any, SimpleNamespace(size=32)))
    assert text in " ".join(sentences(aimed, diagnosis(plan), 32))


def test_the_sentences_say_where_composites_were_asked_for_in_vain() -> None:
    plan = plan_of(Diao(kind="diao", copy_paste=True))
    assert "none could be made" in " ".join(sentences(plan, diagnosis(plan), 64))


def test_an_outline_runs_around_its_object_and_leaves_it_as_it_is() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[30:34, 30:34] = True
    out = outlined(picture, [(mask, (255, 0, 0))])
    assert out.shape == (512, 512, 3)
    inside = cv2.erode(np.kron(mask, np.ones((8, 8))), np.ones((5, 5))).astype(bool)
    assert (out[inside] == 100).all()
    red = (out == (255, 0, 0)).all(2)
    assert red[232:280, 232:280].any()
    assert not red[:220].any()
    assert (picture == 100).all()


def test_a_mosaic_keeps_every_picture_in_its_cell() -> None:
    pictures = [np.full((10 + 5 * i, 20, 3), 50 * i, np.uint8) for i in range(1, 4)]
    out = mosaic(pictures)
    assert out.shape == (512, 512, 3)
    assert [out[r, c, 0] for r, c in ((20, 20), (20, 300), (300, 20), (300, 300))] == [50, 100, 150, 233]
    assert mosaic(pictures[:2]).shape == (256, 512, 3)


def test_heat_is_red_where_ground_is_seen_more_often_and_grey_where_as_often() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    less, same, more = heat_picture(picture, np.array([[0.0, 1.0, 4.0]]))[0].astype(int)
    assert less[2] > less[0] + 50
    assert len(set(same)) == 1
    assert more[0] > more[2] + 50


def test_curves_show_how_the_target_and_the_stream_moved(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "step,target/grass,target/mine,stream/grass,stream/mine\n10,0.5,0.5,0.8,0\n20,,,,\n30,0.4,0.6,0.7,0.3\n"
    )
    palette = {"grass": "#88CC66", "mine": "#882255", "water": "#0000FF"}
    target, stream = curves(tmp_path / "m.csv", palette)
    assert [target["title"], stream["title"]] == [
        "target shares of the classes",
        "shares that the stream delivers",
    ]
    for shown in (target, stream):
        assert "#882255" in shown["svg"].lower()
        assert "#0000ff" not in shown["svg"].lower()
