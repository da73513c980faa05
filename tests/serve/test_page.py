"""The page in a real browser. The server is a stand-in of its contract (`fake.py`): it fails and refuses when it is told to."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.rasters import write
from tests.serve import fake
from tests.serve.browser import Page, chromium, serving

pytestmark = pytest.mark.slow

PHONE = {"width": 375, "height": 667}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    with chromium(downloads) as started:
        yield started


@pytest.fixture
def visit(browser: Any, downloads: Path) -> Iterator[Callable[..., tuple[Page, Any]]]:
    """Opens the page of a new server, whose address has no history: `visit(key=…, width=…)`."""
    for old in downloads.iterdir():
        old.unlink()
    running = []

    def opened(key: str | None = None, basemap: str = "", **how: Any) -> tuple[Page, Any]:
        app = fake.app(key, basemap)
        server = serving(app)
        page = Page(browser, server.__enter__(), downloads)
        running.append(server)
        page.open(**how)
        if key is None:
            page.ready()
        return page, app

    browser.get_log("browser")
    yield opened
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    write(tmp_path / "scene.tif", np.zeros((3, 8, 8), np.uint8), (4e5, 4.6e6))
    return tmp_path / "scene.tif"


def mapped(page: Page, scene: Path) -> None:
    page.drop(scene)
    page.find("#result")


def test_a_scene_that_is_dropped_becomes_a_map(visit: Any, scene: Path) -> None:
    page, _ = visit()
    page.drop(scene)
    assert page.find("#job-title").text == "scene.tif"
    page.find("#result")
    colors = [[int(c["color"][i : i + 2], 16) for i in (1, 3, 5)] for c in fake.CLASSES]
    assert sorted(page.drawn("classes")) == sorted(colors)
    assert len(page.drawn("image")) > 20
    assert f"#{fake.named(0)}" in page.browser.current_url
    assert [line for line in page.browser.get_log("browser") if line["level"] != "INFO"] == []


def test_areas_come_with_rare_classes_first(visit: Any, scene: Path) -> None:
    page, _ = visit()
    mapped(page, scene)
    rows = page.texts("#areas tbody tr")
    assert rows == ["landslide RARE 8,400 m² 0.40 %", "forest 1.66 km² 79 %", "water 43.2 ha 21 %"]


def test_a_map_says_of_which_day_it_is_and_what_is_doubtful(visit: Any, scene: Path) -> None:
    page, _ = visit()
    mapped(page, scene)
    facts = page.find("#job-facts").text
    assert "image of 2024-07-12 · 93 % covered · 4.0 % clouded · earth-search sentinel-2-c1-l2a" in facts
    assert facts.endswith("Note: the best of 3 tried.")


def test_a_place_is_not_offered_for_a_model_that_none_is_fetched_for(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fake.MODEL, "no_place", "it needs imagery of its own kind")
    page, _ = visit()
    assert page.find("#no-place").text == "it needs imagery of its own kind"
    assert not page.js("return document.getElementById('place').checkVisibility()")


def test_a_click_shows_the_probabilities_of_a_pixel(visit: Any, scene: Path) -> None:
    page, _ = visit()
    mapped(page, scene)
    page.find("#map").click()
    page.find(".pixel .bars")
    assert page.texts(".pixel .bars li") == ["landslide RARE 61 %", "forest 37 %", "water 2.0 %"]
    wide = page.js("return [...document.querySelectorAll('.pixel .bar i')].map((b) => b.style.width)")
    assert wide == ["61%", "37%", "2%"]
    assert page.js("return document.getElementById('said').textContent") == (
        "Mapped as landslide: landslide, rare, 61 %; forest, 37 %; water, 2.0 %"
    )


def test_confidence_takes_the_place_of_the_classes_and_its_opacity_can_be_moved(
    visit: Any, scene: Path
) -> None:
    page, _ = visit()
    mapped(page, scene)
    page.js("document.querySelector('[name=over][value=confidence]').click()")
    assert len(page.drawn("confidence")) > 20
    assert page.all(".leaflet-layer.classes") == []
    assert page.find("#ramp").text.split() == ["unsure", "sure"]
    page.js("const o = document.getElementById('opacity'); o.value = 25; o.dispatchEvent(new Event('input'))")
    assert (
        page.js("return getComputedStyle(document.querySelector('.leaflet-layer.confidence')).opacity")
        == "0.25"
    )


def test_files_and_areas_are_saved(visit: Any, scene: Path) -> None:
    page, _ = visit()
    mapped(page, scene)
    for button in page.all("#files button"):
        button.click()
    names = ("map.tif", "confidence.tif", "polygons.gpkg", "preview.png")
    assert [page.downloaded(f"00000000-{name}") for name in names] == [
        f"{name} of {fake.named(0)}".encode() for name in names
    ]
    rows = list(csv.DictReader(io.StringIO(page.downloaded("00000000-areas.csv").decode())))
    assert [(r["value"], r["name"], float(r["area_m2"])) for r in rows] == [
        ("5", "landslide", 8400),
        ("1", "forest", 1_660_000),
        ("2", "water", 431_600),
    ]


def test_a_reload_and_the_list_of_recent_maps_find_the_map_again(visit: Any, scene: Path) -> None:
    page, app = visit()
    mapped(page, scene)
    page.browser.refresh()
    page.find("#result")
    assert page.find("#job-title").text == "scene.tif"
    page.find("#new").click()
    page.find("#recent a").click()
    page.find("#result")
    assert len(app.state.jobs) == 1


def test_a_map_that_is_deleted_leaves_server_and_list(visit: Any, scene: Path) -> None:
    page, app = visit()
    mapped(page, scene)
    page.find("#remove").click()
    page.browser.switch_to.alert.accept()
    page.find("#start")
    page.until("the empty list", lambda: not page.all("#recent a"))
    assert app.state.jobs == {}


def test_a_box_drawn_with_the_mouse_and_a_date_ask_for_a_place(visit: Any) -> None:
    from selenium.webdriver import ActionChains

    page, app = visit()
    page.find("#draw").click()
    ActionChains(page.browser).move_to_element_with_offset(
        page.find("#map"), -60, -40
    ).click_and_hold().move_by_offset(80, 50).release().perform()
    page.js("document.querySelector('[name=date]').value = '2025-08-01'")
    page.find("#place [type=submit]").click()
    page.find("#result")
    west, south, east, north = app.state.place["bbox"]
    # Web Mercator at zoom 2: 256 · 2² pixels around the earth.
    assert east - west == pytest.approx(80 / 1024 * 360, abs=0.36)
    assert -90 < south < north < 90
    assert (app.state.place["model"], app.state.place["date"]) == ("valleys", "2025-08-01")


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((501, "acquire is not installed; pip install 'raremap[acquire]'", {}), "acquire is not installed"),
        ((429, "the queue is full", {"Retry-After": "30"}), "the queue is full; try again in 30 s"),
        ((413, "the scene has 9e9 pixels, at most 1e9 are taken", {}), "the scene has 9e9 pixels"),
    ],
)
def test_what_the_server_refuses_is_one_clear_line(visit: Any, scene: Path, answer: Any, line: str) -> None:
    page, app = visit()
    app.state.refuse = answer
    page.drop(scene)
    assert page.find("#error").text.startswith(line)
    assert page.find("#start")


def test_a_job_that_fails_says_why(visit: Any, scene: Path) -> None:
    page, _ = visit()
    page.drop(scene.rename(scene.with_name("fails.tif")))
    assert page.find("#error").text == "the scene has 1 band, valleys expects red, green, blue"
    assert not page.find("#job").find_element("id", "going").is_displayed()


def test_what_is_no_geotiff_is_not_sent(visit: Any, tmp_path: Path) -> None:
    page, app = visit()
    (tmp_path / "notes.tif").write_text("words")
    page.drop(tmp_path / "notes.tif")
    assert page.find("#error").text.startswith("notes.tif is not a GeoTIFF")
    assert app.state.jobs == {}


def test_a_map_that_is_gone_says_so(visit: Any) -> None:
    page, _ = visit(hash=f"#{fake.named(7)}")
    assert page.find("#error").text == f"no prediction {fake.named(7)}; it may have expired"


def test_a_server_with_a_key_asks_for_it_once(visit: Any, scene: Path) -> None:
    page, _ = visit(key="open sesame")
    page.find("#key-text").send_keys("open sesame\n")
    page.ready()
    mapped(page, scene)
    assert page.drawn("classes")
    page.find("#files button").click()
    assert page.downloaded("00000000-map.tif") == f"map.tif of {fake.named(0)}".encode()


def test_a_card_is_shown_as_text_never_as_html(visit: Any) -> None:
    page, _ = visit()
    page.find("#start summary").click()
    assert page.texts("#card td") == ["forest", "0.9"]
    assert page.all("#card img") == []
    assert [a.get_attribute("href") for a in page.all("#card a")] == ["https://example.org/"]


def test_nothing_is_asked_of_others_unless_a_background_is_given(visit: Any, scene: Path) -> None:
    page, app = visit(basemap="http://localhost:*")
    mapped(page, scene)
    page.drawn("classes")
    asked = page.js("return performance.getEntriesByType('resource').map((r) => r.name)")
    assert asked
    assert [name for name in asked if not name.startswith((page.address, "blob:"))] == []
    page.find("#new").click()
    page.find("details.last summary").click()
    port = page.address.rsplit(":", 1)[1]
    page.find("#basemap-url").send_keys(
        f"http://localhost:{port}api/predictions/other/tiles/image/{{z}}/{{x}}/{{y}}.png\n"
    )
    page.until("tiles of the background", lambda: any("/other/tiles/" in path for path in app.state.asked))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_and_every_control_has_a_name_in_both_themes(
    visit: Any, scene: Path, theme: str
) -> None:
    page, _ = visit(prefers_color_scheme=theme)
    assert page.faint() == []
    assert page.nameless() == []
    mapped(page, scene)
    page.find("#map").click()
    page.find(".pixel .bars")
    assert page.faint() == []
    assert page.nameless() == []


def test_the_theme_follows_the_system_until_it_is_chosen(visit: Any) -> None:
    def darkness() -> bool:
        color = page.js("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, color[4:-1].split(","))) < 3 * 60

    page, _ = visit(prefers_color_scheme="dark")
    assert darkness()
    page.find("#theme").click()
    assert not darkness()
    page.browser.refresh()
    page.ready()
    assert not darkness()


def test_a_phone_scrolls_one_way_only(visit: Any, scene: Path) -> None:
    page, _ = visit(**PHONE)
    beyond = """return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.closest('#map, .unseen, .wide'))
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    assert page.js("return [innerWidth, document.documentElement.scrollWidth]") == [375, 375]
    assert page.js(beyond) == []
    mapped(page, scene)
    assert page.js("return document.documentElement.scrollWidth") == 375
    assert page.js(beyond) == []
    # The map stays in sight while the panel moves.
    page.js("scrollTo(0, document.body.scrollHeight)")
    assert page.js("return document.getElementById('ground').getBoundingClientRect().top") == 0


def test_the_page_is_used_by_keys_alone(visit: Any) -> None:
    from selenium.webdriver import Keys

    page, app = visit()
    order, typed = [], {"west": "2", "south": "42", "east": "2.05", "north": "42.04", "date": "08012025"}
    for _ in range(15):
        page.press(Keys.TAB)
        order.append(page.focused())
        ring = page.js("const e = document.activeElement; const s = getComputedStyle(e.id === 'file' ? e.parentElement : e); return s.outlineStyle + s.outlineWidth")  # fmt: skip
        assert ring == "solid3px", f"no ring on {order[-1]}"
        page.press(typed.get(order[-1], ""))
    assert order[:5] == ["Skip the map", "theme", "map", "Zoom in", "Zoom out"]
    assert order[5:] == ["model", "About this model", "file", "draw", "view", *typed]
    page.press(Keys.ENTER)
    page.find("#result")
    assert app.state.place == {"model": "valleys", "bbox": [2, 42, 2.05, 42.04], "date": "2025-08-01"}
    assert page.focused() == "job-title"
    page.js("document.getElementById('theme').focus()")
    page.press(Keys.TAB)
    assert page.focused() == "map"
    assert page.find("#cross")
    page.press(Keys.ENTER)
    page.find(".pixel .bars")
    page.press(Keys.ESCAPE)
    page.until("the popup to close", lambda: not page.all(".pixel .bars"))


def test_the_map_can_be_skipped_without_leaving_it(visit: Any, scene: Path) -> None:
    from selenium.webdriver import Keys

    page, _ = visit()
    mapped(page, scene)
    page.js("document.querySelector('.skip').focus()")
    page.press(Keys.ENTER)
    assert page.focused() == "panel"
    assert page.browser.current_url.endswith(f"#{fake.named(0)}")
    assert page.find("#result")


def test_an_address_that_names_no_map_says_so(visit: Any) -> None:
    page, app = visit(hash="#panel")
    assert page.find("#error").text == (
        "there is no such map: panel; copy its whole address, or make it anew"
    )
    assert page.find("#start")
    assert not [path for path in app.state.asked if "predictions" in path]


def test_an_upload_that_is_cancelled_leaves_the_map_before_it_alone(visit: Any, scene: Path) -> None:
    page, app = visit()
    mapped(page, scene)
    slow = {"offline": False, "latency": 20_000, "downloadThroughput": -1, "uploadThroughput": -1}
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    page.drop(scene)
    page.find("#cancel").click()
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**slow, "latency": 0})
    page.find("#recent a").click()
    page.find("#result")
    assert fake.named(0) in app.state.jobs


def test_only_the_panel_scrolls_beside_the_map(visit: Any) -> None:
    page, _ = visit(height=500)
    page.find("#start summary").click()
    page.find("#card")
    panel = page.js("const p = document.getElementById('panel'); return p.scrollHeight > p.clientHeight")
    assert panel
    assert page.js("return [innerHeight, document.documentElement.scrollHeight]") == [500, 500]


LONG = "mineral_extraction_and_dump_sites_of_every_kind"
MANY = [("arable", 0.3), ("pasture", 0.2), ("forest", 0.15), ("scrub", 0.1), ("vines", 0.08), ("urban", 0.06),
        ("roads", 0.05), ("water", 0.035), (LONG, 0.015), ("wetland", 0.006), ("beach", 0.004)]  # fmt: skip
RARE = {LONG, "wetland"}


def many(app: Any) -> None:
    """Eleven classes, of which two are rare and of the last at the pixel."""
    app.state.pixel = MANY
    rows = [{"value": i, "name": n, "color": "#3f7d4e", "rare": n in RARE, "area_m2": p * 1e6, "share": p}
            for i, (n, p) in enumerate(MANY)]  # fmt: skip
    app.state.areas = sorted(rows, key=lambda r: not r["rare"])


@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
def test_a_pixel_tells_everyone_where_its_rare_classes_stand(visit: Any, scene: Path, size: Any) -> None:
    from selenium.webdriver import Keys

    page, app = visit(**size)
    many(app)
    mapped(page, scene)
    page.find("#map").click()
    page.find(".pixel .bars")
    assert page.js("return document.getElementById('said').textContent") == (
        f"Mapped as arable: arable, 30 %; pasture, 20 %; forest, 15 %; {LONG}, rare, 1.5 %, place 9 of 11; "
        "wetland, rare, 0.60 %, place 10 of 11"
    )
    names = [text.split()[0] for text in page.texts(".pixel .bars li .name")]
    assert [n.replace(" ", "") for n in names[:3]] == ["arable", "pasture", "forest"]
    assert len(page.all(".pixel .bars li")) == len(MANY)
    hidden = """
        const box = document.querySelector(".pixel .lists").getBoundingClientRect();
        const seen = Math.min(box.bottom, document.getElementById("ground").getBoundingClientRect().bottom);
        return [...document.querySelectorAll(".pixel li")].filter((li) => li.querySelector(".rare"))
          .filter((li) => li.querySelector(".name").getBoundingClientRect().bottom > seen).length"""
    assert page.js(hidden) == 0
    page.js("document.getElementById('opacity').focus()")
    page.press(Keys.ESCAPE)
    page.until("the popup to close", lambda: not page.all(".pixel .bars"))


def test_a_long_name_stays_beside_its_colour(visit: Any, scene: Path) -> None:
    page, app = visit(**PHONE)
    many(app)
    mapped(page, scene)
    apart = """
        return [...document.querySelectorAll("#areas .class")].filter((e) => {
          const [color, name] = [...e.children].map((c) => c.getBoundingClientRect());
          return color.right > name.left || Math.abs(color.top - name.top) > 12;
        }).length"""
    assert page.js(apart) == 0
    assert page.js("return document.documentElement.scrollWidth") == 375
    tall = page.js("return [...document.querySelectorAll('#areas .name')].map((e) => e.offsetHeight)")
    assert tall[0] > 1.5 * tall[1]


def test_a_scene_across_the_180th_meridian_is_shown_on_both_sides(visit: Any, scene: Path) -> None:
    from selenium.webdriver import ActionChains

    page, app = visit()
    app.state.bounds = (179.98, -16.9, -179.98, -16.87)
    mapped(page, scene)
    assert len(page.drawn("image")) > 20
    asked = {tuple(map(int, path.split("/")[-3:-1])) for path in app.state.asked if "/tiles/image" in path}
    ((zoom, _),) = {(z, None) for z, _ in asked}
    assert {(zoom, 0), (zoom, 2**zoom - 1)} <= asked
    # A centre that is dragged over 180° is brought back to -180°: what lies there is drawn anew.
    grip = ActionChains(page.browser).move_to_element_with_offset(page.find("#map"), 150, 0).click_and_hold()
    grip.move_by_offset(-100, 0).move_by_offset(-100, 0).release().perform()
    page.until("the other side", lambda: page.js(
        """const [x, y] = [innerWidth / 3, innerHeight / 2];
        return [...document.querySelectorAll('.leaflet-layer.image canvas')].some((c) => {
          const r = c.getBoundingClientRect();
          return 'drawn' in c.dataset && r.left < x && x < r.right && r.top < y && y < r.bottom; })"""))  # fmt: skip
    page.find("#map").click()
    page.find(".pixel .bars")


def test_nothing_moves_where_the_user_wants_it_still(visit: Any) -> None:
    page, _ = visit(prefers_reduced_motion="reduce")
    assert page.all(".leaflet-zoom-anim, .leaflet-fade-anim") == []
    page, _ = visit()
    assert page.all(".leaflet-zoom-anim, .leaflet-fade-anim") != []


def test_a_job_is_polled_until_the_user_goes_elsewhere(visit: Any, scene: Path) -> None:
    page, app = visit()
    page.drop(scene)
    page.until("the first poll", lambda: app.state.jobs.get(fake.named(0), {}).get("polls"))
    page.find("#new").click()
    page.find("#start")
    polls = app.state.jobs[fake.named(0)]["polls"]
    time.sleep(1.5)
    assert app.state.jobs[fake.named(0)]["polls"] <= polls + 1
