"""The report: self-contained, escaped, and right about the figures that it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raremap.errors import OutputError
from raremap.measure.decision import Decision
from raremap.measure.tally import Tally
from raremap.reports.figures import curves
from raremap.reports.page import confusion_cells, share_axis, write_report
from raremap.reports.pictures import Panel

NAMES = ("grass", "forest", "open <b>mine</b>", "snow")


def scored(matrix: np.ndarray) -> dict[str, Any]:
    counts = Tally.empty(1, 4)
    counts.matrices[0] = matrix
    return counts.to_dict(NAMES, ("open <b>mine</b>",))


def evaluation(bias: float = 0.0) -> dict[str, Any]:
    matrix = np.array([[900, 40, 10, 0], [30, 700, 0, 2], [6, 2, 12, 1], [0, 0, 0, 0]])
    scores = scored(matrix)
    uses = {"train": [800, 700, 20, 9], "test": [950, 732, 21, 0]}
    return {
        "use": "test",
        "classes": list(NAMES),
        "rare": ["open <b>mine</b>"],
        "decision": scores,
        "argmax": scored(matrix.T * (matrix.sum(1) > 0)[:, None]),
        "places_with": dict(zip(NAMES, (3, 3, 1, 0), strict=True)),
        "by_place": {"north": {}, "south": {}},
        "remarks": ["'snow' has no labelled pixel here", "few places & many hopes"],
        "tiles": 12,
        "bundle": "valley <model>",
        "bands": ["red", "green"],
        "model": {"decoder": "unet", "encoder": "resnet18"},
        "training": {"steps": 700, "split": {"folds": 5}},
        "fitted_decision": Decision((0.0, 0.0, bias, 0.0), held=(2, 2, 1, 0)).to_dict(),
        "predict": {"window": 256, "overlap": 0.25},
        "what_saw_what": {"train": [f"place {i}" for i in range(50)], "test": ["north", "south"]},
        "tiles_by_use": {"train": 90, "test": 12},
        "pixels_by_use": {u: dict(zip(NAMES, c, strict=True)) for u, c in uses.items()},
        "colors": dict(zip(NAMES, ("#88CC66", "#117733", "#882255", "#EEEEEE"), strict=True)),
        "catalog": "abc",
        "catalog_of_training": True,
        "dropped": {"too little valid ground": 3, "no label": 0},
        "versions": {"raremap": "0.1.0", "python": "3.11"},
        "time": "2026-01-02T03:04:05+00:00",
    }


def panel() -> Panel:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 40, 30)).astype(np.uint8)
    truth[:5] = 255
    return Panel(
        "best", "F1 0.91 · s0:0:0", rng.integers(0, 255, (40, 30, 3)).astype(np.uint8), truth, predicted
    )


class Page(HTMLParser):
    """Tags that are open, and every address that the page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag


def metrics(path: Path) -> Path:
    path.write_text(
        "step,loss,lr,macro_f1,miou,f1/grass,f1/forest\n"
        "10,1.5,0.1,,,,\n20,1.2,0.1,0.4,0.3,0.5,nan\n30,,0.1,0.6,0.5,0.7,0.2\n",
        encoding="utf-8",
    )
    return path


def test_the_page_asks_for_nothing_outside_and_is_well_formed(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "r.html", evaluation(), metrics(tmp_path / "metrics.csv"), [panel(), panel()]
    )
    page = Page()
    text = path.read_text(encoding="utf-8")
    page.feed(text)
    assert page.open == []
    assert len(page.asked) >= 8
    assert all(a.startswith(("data:image/", "#")) for a in page.asked)
    assert not re.search(r"url\((?!#)|@import|<script", text)


def test_names_are_escaped(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.html", evaluation(), None, [panel()]).read_text(encoding="utf-8")
    assert "<b>mine</b>" not in text
    assert "open &lt;b&gt;mine&lt;/b&gt;" in text
    assert "valley &lt;model&gt;" in text
    assert "few places &amp; many hopes" in text.lower()


def test_figures_classes_and_warnings_are_on_the_page(tmp_path: Path) -> None:
    e = evaluation(bias=0.7)
    text = write_report(tmp_path / "r.html", e).read_text(encoding="utf-8")
    assert f"{e['decision']['macro_f1']:.3f}" in text
    assert f"{e['argmax']['macro_f1']:.3f}" in text
    assert "absent: no labelled pixel here, so no score; 3 labelled pixels were called it" in text
    assert "Left out: 3 tiles (too little valid ground)" in text
    assert "no label)" not in text
    assert "20 more" in text  # of 50 training places
    rows = [text.index(f"</span>{n}") for n in ("open &lt;b&gt;mine", "forest", "grass")]
    assert rows == sorted(rows)


def test_without_curves_panels_or_a_decision_their_parts_are_left_out(tmp_path: Path) -> None:
    e = {**evaluation(), "fitted_decision": None, "rare": []}
    text = write_report(tmp_path / "r.html", e, tmp_path / "none.csv").read_text(encoding="utf-8")
    assert "Imagery, truth, prediction" not in text
    assert "<h2>Training" not in text
    assert "argmax, none was fitted" in text


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", evaluation())


def test_rows_of_the_confusion_are_shares_of_the_true_class() -> None:
    cells = confusion_cells(np.array([[3.0, 1.0], [0.0, 0.0]]))
    assert [[c["text"] for c in row] for row in cells] == [["75", "25"], ["", ""]]
    assert cells[0][0]["hot"]
    assert cells[0][0]["diagonal"]
    assert not cells[0][1]["diagonal"]


def test_shares_lie_on_a_logarithmic_axis_and_a_missing_class_is_named() -> None:
    shares = share_axis({"train": {"a": 99, "b": 1}, "test": {"a": 10, "b": 0}, "monitor": {"a": 0, "b": 0}})
    assert shares["uses"] == ["train", "test"]
    b, a = shares["rows"]
    assert (b["name"], b["missing"], [d["at"] for d in b["dots"]]) == ("b", ["test"], [0.0])
    assert a["dots"][1]["at"] == 100
    assert [t["text"] for t in shares["ticks"]] == ["1 %", "10 %", "100 %"]


def test_curves_show_the_columns_that_are_there(tmp_path: Path) -> None:
    palette = {"grass": "#88CC66", "forest": "#117733", "water": "#0000FF"}
    shown = curves(metrics(tmp_path / "m.csv"), palette)
    assert [c["title"] for c in shown] == [
        "training loss",
        "macro-F1 and mIoU of the monitor places",
        "F1 of each class, in its colour",
    ]
    assert "#88cc66" in shown[2]["svg"].lower()
    assert "#0000ff" not in shown[2]["svg"].lower()
    assert all("currentColor" in c["svg"] for c in shown)
    (tmp_path / "some.csv").write_text("step,lr\n1,0.1\n")
    assert curves(tmp_path / "some.csv", palette) == []
    assert curves(tmp_path / "none.csv", palette) == []


def test_the_same_curves_give_the_same_bytes(tmp_path: Path) -> None:
    path = metrics(tmp_path / "m.csv")
    assert curves(path, {"grass": "#88CC66"}) == curves(path, {"grass": "#88CC66"})
