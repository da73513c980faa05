"""The server under load: 20 clients at once, its worker killed, tiles, and a map beside the network alone.

    python benchmarks/serve.py            about four minutes
    python benchmarks/serve.py --quick    under a minute: 15 s, 8 clients

`raremap serve` runs in a process of its own; clients are threads here, on the same processors. Each client uploads a
scene, asks every quarter of a second how far it is, fetches tiles and the map, and begins again. A client that is told
that the queue is full (429) waits and tries again: that is counted, and is no error. Memory is that of the server and
its worker together (resident; their highest), halfway through and at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from machine import fresh, machine

BANDS = ("red", "green", "blue", "nir")
CLASSES = 6


def make_bundle(folder: Path, encoder: str) -> None:
    import torch

    from raremap.bundle import Bundle
    from raremap.labels import LabelScheme
    from raremap.models.options import Smp
    from raremap.scene.normalize import Normalization

    torch.manual_seed(0)
    options = Smp(decoder="unet", encoder=encoder, weights=None)
    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    normalization = Normalization("standard", shift=(100.0,) * 4, scale=(0.02,) * 4)
    net = options.build(len(BANDS), CLASSES).eval()
    Bundle(net, scheme, BANDS, normalization, options, info={"name": "bench"}).save(folder)


def make_scene(path: Path, side: int, seed: int = 0) -> None:
    import cv2
    import numpy as np
    import rasterio

    rng = np.random.default_rng(seed)
    soft = [cv2.resize(rng.random((side // 32, side // 32), np.float32), (side, side)) for _ in BANDS]
    pixels = (np.stack(soft) * 200 + rng.integers(1, 24, (len(BANDS), side, side))).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=len(BANDS), dtype="uint8", crs="EPSG:32631",
        transform=rasterio.transform.from_origin(5e5, 4.6e6, 10, 10), tiled=True, compress="deflate",
    ) as file:  # fmt: skip
        file.write(pixels)


class Server:
    def __init__(self, bundle: Path, data: Path, *more: str) -> None:
        import httpx

        started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raremap", "serve", str(bundle), "--port", "0", "--data", str(data), "--rate", "0", *more],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " at http://" not in line:
            raise SystemExit("the server did not start")
        self.url = line.split(" at ")[1].strip()
        self.client = httpx.Client(base_url=self.url, timeout=120)
        while True:
            try:
                self.client.get("/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.02)
        self.start_s = time.perf_counter() - started

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(c) for c in path.read_text().split()]

    def memory_mb(self) -> float:
        return sum(_resident(p) for p in (self.process.pid, *self.workers()))

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(60)


def _resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def mapped(client, data: bytes) -> tuple[dict, float, float]:
    """Upload and wait: the prediction, seconds until it was taken, seconds until the map."""
    started = time.perf_counter()
    answer = client.post("/api/predictions", data={"model": "bench"}, files={"file": ("a.tif", data)})
    answer.raise_for_status()
    taken = time.perf_counter() - started
    while (job := client.get(answer.json()["url"]).json())["status"] in ("queued", "running"):
        time.sleep(0.02)
    if job["status"] != "done":
        raise SystemExit(f"a prediction failed: {job}")
    return job, taken, time.perf_counter() - started


def tile_addresses(job: dict, zooms: range) -> list[str]:
    west, south, east, north = job["bounds"]
    out = []
    for z in zooms:
        n = 2**z
        y = [int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n) for lat in (north, south)]
        x = [int((lon + 180) / 360 * n) for lon in (west, east)]
        out += [f"{z}/{i}/{j}.png" for i in range(x[0], x[1] + 1)[:4] for j in range(y[0], y[1] + 1)[:4]]
    return out


def one_by_one(server: Server, folder: Path, side: int, encoder: str, repeats: int) -> dict:
    """Upload to map beside the network's own time; latency of tiles on an idle server."""
    make_scene(folder / "one.tif", side)
    data = (folder / "one.tif").read_bytes()
    runs = [mapped(server.client, data) for _ in range(repeats)]
    alone = network_alone(folder / "one.tif", folder / "bundle", repeats)
    figures: dict = {
        "side": side, "upload_mb": round(len(data) / 1e6, 1), "taken_s": _median([r[1] for r in runs]),
        "map_s": _median([r[2] for r in runs]), "network_s": alone,
        "megapixels_s": round(side * side / 1e6 / _median([r[2] for r in runs]), 2), "tiles_ms": {},
    }  # fmt: skip
    job = runs[-1][0]
    addresses = tile_addresses(job, range(10, 16))
    for layer in ("image", "classes", "confidence"):
        times = []
        for address in addresses:
            started = time.perf_counter()
            server.client.get(f"/api/predictions/{job['id']}/tiles/{layer}/{address}").raise_for_status()
            times.append((time.perf_counter() - started) * 1000)
        times.sort()
        figures["tiles_ms"][layer] = {
            "median": round(_median(times), 1),
            "p95": round(times[int(0.95 * len(times))], 1),
        }
    return figures


def network_alone(scene: Path, bundle: Path, repeats: int) -> float:
    """The network as raremap calls it, on the windows of the scene, in a process with nothing else."""
    return fresh(__file__, "--child", scene, bundle, repeats)


def child(scene: str, folder: str, repeats: int) -> None:
    import numpy as np

    from raremap.bundle import Bundle
    from raremap.maps.lattice import Lattice
    from raremap.scene.raster import open_image
    from raremap.scene.window import Window

    bundle = Bundle.load(folder)
    net = bundle.network()
    with open_image(scene, names=bundle.bands) as reader:
        lattice = Lattice.of(reader.grid.height, reader.grid.width, bundle.predict)
        image, valid = reader.read(Window(0, 0, lattice.height, lattice.width))
    count = len(lattice.row_starts) * len(lattice.col_starts)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for _ in range(count):
            np.asarray(net(image[None].copy(), valid[None].copy()))
        times.append(time.perf_counter() - started)
    print(_median(times[1:]))


def crowd(server: Server, folder: Path, clients: int, seconds: float, side: int) -> dict:
    """Clients that upload, poll, look and begin again."""
    import httpx

    errors: list[str] = []
    counts = {"maps": 0, "requests": 0, "waits": 0}
    first_map: list[float] = []
    polls: list[float] = []
    lock = threading.Lock()
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        make_scene(folder / f"{number}.tif", side, number)
        data = (folder / f"{number}.tif").read_bytes()
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while time.monotonic() < until:
                try:
                    one(client, data)
                except Exception as error:
                    with lock:
                        errors.append(f"{type(error).__name__}: {error}"[:200])
                    time.sleep(0.5)

    def ask(client, url: str):
        started = time.perf_counter()
        answer = client.get(url)
        with lock:
            counts["requests"] += 1
            polls.append(time.perf_counter() - started)
        answer.raise_for_status()
        return answer

    def one(client, data: bytes) -> None:
        started = time.perf_counter()
        while True:
            answer = client.post("/api/predictions", data={"model": "bench"}, files={"file": ("a.tif", data)})
            with lock:
                counts["requests"] += 1
            if answer.status_code != 429:
                break
            with lock:
                counts["waits"] += 1
            time.sleep(min(2.0, float(answer.headers["retry-after"])))
        answer.raise_for_status()
        url = answer.json()["url"]
        # A job that was taken is followed to its end, also past the time: none may be lost.
        while (job := ask(client, url).json())["status"] in ("queued", "running"):
            time.sleep(0.25)
        if job["status"] != "done":
            raise RuntimeError(job["error"])
        if not math.isclose(sum(a["share"] for a in job["areas"]), 1, abs_tol=1e-6):
            raise RuntimeError("areas do not add up")
        ask(client, job["files"]["map"])
        for address in tile_addresses(job, range(12, 14))[:3]:
            ask(client, f"/api/predictions/{job['id']}/tiles/classes/{address}")
        with lock:
            counts["maps"] += 1
            first_map.append(time.perf_counter() - started)

    memory: list[float] = []
    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        memory.append(server.memory_mb())
        time.sleep(0.5)
    half = len(memory) // 2
    polls.sort()
    return {
        "clients": clients, "seconds": seconds, "side": side, **counts, "errors": errors[:5], "error_count": len(errors),
        "request_ms": {"median": round(_median(polls) * 1000, 1), "p99": round(polls[int(0.99 * len(polls))] * 1000, 1)},
        "map_s_median": round(_median(first_map), 2) if first_map else None,
        "memory_mb": {"start": round(memory[0]), "first_half": round(max(memory[: half + 1])), "second_half": round(max(memory[half:]))},
    }  # fmt: skip


def killed(server: Server, bundle: Path, data: Path, folder: Path, side: int) -> tuple[Server, dict]:
    """Kill the server while it predicts; start it again and wait for what was taken."""
    make_scene(folder / "long.tif", side)
    scene = (folder / "long.tif").read_bytes()
    urls = []
    for _ in range(3):
        answer = server.client.post(
            "/api/predictions", data={"model": "bench"}, files={"file": ("a.tif", scene)}
        )
        urls.append(answer.json()["url"])
    while server.client.get(urls[0]).json()["status"] == "queued":
        time.sleep(0.01)
    time.sleep(0.3)
    before = server.client.get(urls[0]).json()
    server.stop(signal.SIGKILL)
    started = time.perf_counter()
    server = Server(bundle, data)
    back = time.perf_counter() - started
    ends = []
    for url in urls:
        while (job := server.client.get(url).json())["status"] in ("queued", "running"):
            time.sleep(0.05)
        ends.append(job["status"])
    return server, {
        "killed_at": before["progress"], "status_then": before["status"], "back_after_s": round(back, 1), "ends": ends,
    }  # fmt: skip


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 clients for 15 s, under a minute")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    seconds = args.seconds or (15 if args.quick else 120)
    clients = args.clients or (8 if args.quick else 20)
    side, repeats = (512, 1) if args.quick else (2048, 3)
    figures: dict = {
        **machine("raremap", "torch", "rasterio", "fastapi", "rio-tiler", "uvicorn"),
        "quick": args.quick,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as name:
        folder = Path(name)
        make_bundle(folder / "bundle", args.encoder)
        server = Server(folder / "bundle", folder / "data")
        figures["start_s"] = round(server.start_s, 1)
        try:
            one = figures["one"] = one_by_one(server, folder, side, args.encoder, repeats)
            print(
                f"{side}²: taken {one['taken_s']:.2f} s, map {one['map_s']:.2f} s, network alone {one['network_s']:.2f} s"
            )
            for layer, ms in one["tiles_ms"].items():
                print(f"  tile {layer:<11} median {ms['median']:6.1f} ms, 95 % {ms['p95']:6.1f} ms")
            many = figures["crowd"] = crowd(server, folder, clients, seconds, 256)
            print(
                f"{clients} clients, {seconds:.0f} s: {many['maps']} maps, {many['requests']} requests, "
                f"{many['error_count']} errors, {many['waits']} told to wait; memory {many['memory_mb']} MB"
            )
            server, figures["killed"] = killed(server, folder / "bundle", folder / "data", folder, side)
            print(
                f"killed at {figures['killed']['killed_at']:.0%}, started again: {figures['killed']['ends']}"
            )
        finally:
            server.stop()
    figures["load_after"] = os.getloadavg()[0]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
