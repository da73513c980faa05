"""The process that predicts, by lines of JSON: `python -m raremap.serve.worker`.

It is apart from the server so that it can be stopped in the middle of a job, and so that whatever a scene does to it
ends it alone. It gets one object a line and gives one or more for each:

    {"load": [folder, …], "table": folder or null} → {"model": {…}} for each, then {"ready": true}
    {"job": id, "model": id, "task": {…}, "out": folder, "device": "auto"}
                                                   → {"job": id, "progress": 0.3} …, then {"job": id, "done": {…}}
    a fault of the input                            → {"failed": "one line"}

Where its input ends, as when the server is killed, it ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from raremap.errors import BundleError, RaremapError

_TOLD_EVERY_S = 0.2


def main() -> None:
    """Work until the input ends."""
    # Whatever a library prints goes to standard error: standard output is the protocol's.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    worker = Worker(out)
    while True:
        worker.obey(orders.get())


class Worker:
    """The loaded bundles, and where answers go."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bundles: dict[str, tuple[Any, Any]] = {}
        self._table: Any = None

    def obey(self, order: dict[str, Any]) -> None:
        """Do one order; a fault is answered."""
        of = {"job": order["job"]} if "job" in order else {}
        try:
            if "load" in order:
                self._load(order["load"], order.get("table"))
            else:
                self._say(of | {"done": self._map(order)})
        except RaremapError as error:
            self._say(of | {"failed": _private(str(error), order)})
        except MemoryError:
            self._say(
                of | {"failed": "the scene is too large for the memory of this machine; cut it into parts"}
            )
        except Exception:
            traceback.print_exc()
            self._say(of | {"failed": "the prediction failed by a fault of the server; its log says more"})

    def _say(self, answer: dict[str, Any]) -> None:
        from raremap.plain import plain

        self._out.write(json.dumps(plain(answer)) + "\n")
        self._out.flush()

    def _load(self, folders: list[str], table: str | None) -> None:
        from raremap.ensembles import load_bundle
        from raremap.serve.models import described, ids_of

        bundles = [load_bundle(folder) for folder in folders]
        for name, bundle, folder in zip(ids_of([b.name for b in bundles]), bundles, folders, strict=True):
            model = described(bundle, Path(folder), name)
            self._bundles[name] = bundle, model
            self._say({"model": model.to_dict()})
        if table is not None:
            from raremap.tabular.model import TableModel

            self._table = TableModel.load(table)
        if self._bundles:
            self._warm()
        self._say({"ready": True})

    def _warm(self) -> None:
        """Map a scene of nothing much, so that what is loaded and compiled at first use is there for the first user."""
        import numpy as np
        import rasterio
        from rasterio.transform import from_origin

        from raremap.serve.mapping import map_scene

        bundle, model = next(iter(self._bundles.values()))
        with tempfile.TemporaryDirectory(prefix="raremap-warm-") as folder:
            path = Path(folder) / "upload.tif"
            pixels = np.random.default_rng(0).integers(1, 255, (len(model.bands), 64, 64), np.uint8)
            with rasterio.open(
                path, "w", driver="GTiff", height=64, width=64, count=len(model.bands), dtype="uint8",
                crs="EPSG:32631", transform=from_origin(4e5, 4.6e6, 10, 10),
            ) as file:  # fmt: skip
                file.write(pixels)
            # What ails a model on such pixels, its users will see on theirs.
            with suppress(RaremapError):
                map_scene(
                    bundle, model, {"upload": path.name, "called": path.name}, Path(folder), lambda _: None
                )

    def _map(self, order: dict[str, Any]) -> dict[str, Any]:
        from raremap.serve.fusing import fuse_scene
        from raremap.serve.mapping import map_scene

        task = order["task"]
        name = task.get("image", order["model"])
        if name not in self._bundles or ("image" in task and self._table is None):
            raise BundleError(
                f"the server was started again without the model or fusion '{order['model']}'; send the scene again"
            )
        bundle, model = self._bundles[name]
        told = 0.0

        def tell(share: float) -> None:
            nonlocal told
            if time.monotonic() - told > _TOLD_EVERY_S:
                told = time.monotonic()
                self._say({"job": order["job"], "progress": round(share, 4)})

        out, device = Path(order["out"]), order["device"]
        if "image" in task:
            return fuse_scene(bundle, self._table, task, out, tell, device)
        return map_scene(bundle, model, task, out, tell, device)


def _private(line: str, order: dict[str, Any]) -> str:
    """A message without the server's folders."""
    from raremap.serve.mapping import private

    return private(line, order["task"], Path(order["out"])) if "out" in order else line


if __name__ == "__main__":
    main()
