"""A real browser on a page: Debian's chromium, driven by Selenium; a server of the page in a thread of its own."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn

WAIT_S = 240.0  # a busy machine's patience, never spent where all is well


@contextmanager
def serving(app: Any, lifespan: Literal["auto", "off"] = "auto") -> Iterator[str]:
    """The address of an ASGI application that listens on this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan=lifespan, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + WAIT_S
    while not server.started:
        assert thread.is_alive(), "the server ended before it had begun"
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """A browser without a window; skips where this machine has none."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the page is tested with selenium: pip install selenium"
    )
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip(
            "chromium and chromedriver are not on the PATH (Debian: apt install chromium chromium-driver)"
        )
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--lang=en-US"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """The page in a browser, by the ids of its parts."""

    def __init__(self, browser: Any, address: str, downloads: Path) -> None:
        self.browser, self.address, self.downloads = browser, address, downloads

    def open(self, hash: str = "", width: int = 1280, height: int = 800, **media: str) -> None:
        """Load the page anew; `media` are CSS features such as `prefers_color_scheme`."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.browser.get("about:blank")
        self.browser.get(self.address + hash)

    def js(self, code: str, *given: Any) -> Any:
        """What a function body of JavaScript returns."""
        return self.browser.execute_script(code, *given)

    def until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Wait for the first true answer of `holds`; fails with `what`."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.05)
        shown = self.js("return document.body.innerText")
        pytest.fail(f"waited in vain for {what}; the page shows:\n{shown}\n{self.browser.get_log('browser')}")

    def find(self, selector: str) -> Any:
        """The first visible element, waited for."""

        def visible() -> Any:
            return next((e for e in self.all(selector) if e.is_displayed()), None)

        return self.until(selector, visible)

    def all(self, selector: str) -> list[Any]:
        """Elements as they are now."""
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Their words, in one line each."""
        return [" ".join(e.text.split()) for e in self.all(selector)]

    def ready(self) -> None:
        """Wait for the models."""
        self.until("the models", lambda: self.all("#model option"))

    def drop(self, *files: Path) -> None:
        """Let files fall on the map, as a hand with a mouse does."""
        sent = [[f.name, base64.b64encode(f.read_bytes()).decode()] for f in files]
        self.js(
            """
            const carried = new DataTransfer();
            for (const [name, text] of arguments[0])
              carried.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            const to = document.getElementById("map");
            for (const kind of ["dragenter", "dragover", "drop"])
              to.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried }));
            """,
            sent,
        )

    def drawn(self, layer: str) -> list[list[int]]:
        """The distinct opaque colours of a layer's tiles, once all of them are there."""
        canvases = f".leaflet-layer.{layer} canvas"
        self.until(f"tiles of {layer}", lambda: self.js(
            "const c = [...document.querySelectorAll(arguments[0])]; return c.length > 0 && c.every((x) => 'drawn' in x.dataset)", canvases))  # fmt: skip
        return self.js(
            """
            const seen = new Set();
            for (const c of document.querySelectorAll(arguments[0])) {
              const { data } = c.getContext("2d").getImageData(0, 0, 256, 256);
              for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
            }
            return [...seen].map((t) => t.split(",").map(Number));
            """,
            canvases,
        )

    def downloaded(self, name: str) -> bytes:
        """The bytes of a file that the browser saved."""
        path = self.downloads / name
        self.until(f"the download of {name}", path.exists)
        return path.read_bytes()

    def press(self, *keys: str) -> None:
        """Keys, one after the other, to whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> str:
        """What has the focus: its id, else its name or words."""
        return self.js(
            "const e = document.activeElement; return e.id || e.getAttribute('name') || e.getAttribute('aria-label') || e.textContent.trim()"
        )

    def nameless(self) -> list[str]:
        """What a screen reader can reach by keys but has no name for."""
        tree = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        reached = [n for n in tree if not n["ignored"] and any(
            p["name"] == "focusable" and p["value"].get("value") for p in n.get("properties", []))]  # fmt: skip
        assert len(reached) > 5
        return [
            json.dumps(n["role"])
            for n in reached
            if not n.get("name", {}).get("value") and n["role"]["value"] != "RootWebArea"
        ]

    def faint(self, least: float = 4.5) -> list[str]:
        """Words whose contrast with what is behind them is below `least` (WCAG 2.2, 1.4.3)."""
        return self.js(_CONTRAST, least)


_CONTRAST = """
const numbers = (text) => {
  const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  c.fillStyle = text; c.fillRect(0, 0, 1, 1);
  return [...c.getImageData(0, 0, 1, 1).data];
};
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if (color[3] === 255) return color.slice(0, 3);
  }
  return [255, 255, 255];
};
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  const words = [...e.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
  if (!words.length || !e.checkVisibility() || e.closest(".unseen, :disabled, .leaflet-control-scale, #ramp, option")) continue;
  const [a, b] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < arguments[0]) faint.push(`${e.tagName} "${words[0].textContent.trim()}" ${ratio.toFixed(2)}`);
}
return faint;
"""
