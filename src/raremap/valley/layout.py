"""What people and water have drawn on the ground, at 1 m: rivers, roads, towns, estates, quarries, houses.

Codes of the raster that it makes; everything else follows from the ground (`cover`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from raremap.valley.noise import fractal, ranks
from raremap.valley.terrain import CELL, Terrain

NOTHING, RIVER, LAKE, SEA, GRAVEL, ROAD, TRACK, TOWN, ESTATE, QUARRY, HOUSE, LOST_HOUSE = range(12)
FINE = 10  # fine cells along an image pixel

_HOUSE_SHARE, _LOST = 0.0054, 0.08
_TOWN_SHARE, _ESTATE_SHARE, _QUARRY_SHARE = 0.029, 0.021, 0.0027


@dataclass(frozen=True)
class Layout:
    """The raster of codes uint8 `[10·size, 10·size]`, and distances (m) to roads and to rivers at 10 m."""

    codes: np.ndarray
    to_road: np.ndarray
    to_river: np.ndarray
    houses: int
    lost_houses: int


def make_layout(terrain: Terrain, rng: np.random.Generator) -> Layout:
    """Lay out a valley: each thing where the ground allows it, later ones over earlier ones."""
    import cv2

    size = len(terrain.height)
    codes = np.zeros((size * FINE, size * FINE), np.uint8)
    water = np.where(terrain.sea, SEA, np.where(terrain.lake, LAKE, NOTHING)).astype(np.uint8)
    rivers = _rivers(terrain)
    _draw_rivers(codes, rivers, rng)
    _draw_shores(codes, water)
    wet = terrain.sea | terrain.lake
    towns = _towns(terrain, wet, rng)
    zones = _zones(terrain, towns, wet, rng)
    roads = _roads(terrain, towns, wet, rng)
    _paint(codes, zones["quarry"], QUARRY)
    _paint(codes, zones["town"], TOWN)
    _paint(codes, zones["estate"], ESTATE)
    _draw_tracks(codes, terrain, rng)
    for line, width in roads:
        _line(codes, line, ROAD, width)
    near = np.zeros((size, size), np.uint8)
    for line, _ in roads:
        cv2.polylines(near, [np.round(line / FINE).astype(np.int32)[:, None]], False, 1)
    to_road, to_river = _distance(near > 0), _distance(terrain.drained > 0.3e6)
    houses, lost = _houses(codes, terrain, to_road, rng)
    return Layout(codes, to_road, to_river, houses, lost)


def _distance(there: np.ndarray) -> np.ndarray:
    """Metres to the nearest of the pixels that are there; 9 km where there is none."""
    import cv2

    if not there.any():
        return np.full(there.shape, 9e3, np.float32)
    return cv2.distanceTransform((~there).astype(np.uint8), cv2.DIST_L2, 5) * CELL


def _strips(size: int, margin: int = 6) -> Iterator[tuple[slice, slice, slice]]:
    """Strips of the grids, so that filters of the fine one need little memory: the rows at 10 m with a margin
    for the filter, the fine rows without it, and where these lie in the fine rows of the former."""
    for start in range(0, size, 64):
        end, top = min(start + 64, size), max(start - margin, 0)
        rows = slice(start * FINE, end * FINE)
        yield slice(top, end + margin), rows, slice((start - top) * FINE, (end - top) * FINE)


def _draw_shores(codes: np.ndarray, water: np.ndarray) -> None:
    """Sea and lakes of the 10 m grid onto the fine one, with a smooth shore."""
    import cv2

    for coarse, rows, inner in _strips(len(water)):
        slab = np.repeat(np.repeat(water[coarse], FINE, 0), FINE, 1)
        smooth = cv2.GaussianBlur((slab > 0).astype(np.float32), (0, 0), 6)[inner] > 0.5
        codes[rows][smooth] = cv2.dilate(slab, np.ones((25, 25), np.uint8))[inner][smooth]


def _rivers(terrain: Terrain) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each stream from its spring: points `[n, 2]` (x, y in fine cells) and the area that each drains."""
    size = len(terrain.height)
    drained, to = terrain.drained.ravel(), terrain.receiver.ravel()
    least = 5e6
    fed = np.zeros(drained.size, bool)
    wet = np.flatnonzero(drained >= least)
    fed[to[wet]] = True
    springs = wet[~fed[wet]]
    taken = np.zeros(drained.size, bool)
    out = []
    for spring in springs[np.argsort(-drained[springs], kind="stable")]:
        path = [int(spring)]
        while to[path[-1]] != path[-1] and not taken[path[-1]]:
            taken[path[-1]] = True
            path.append(int(to[path[-1]]))
        if len(path) >= 4:
            cells = np.array(path)
            points = np.column_stack([cells % size, cells // size]) * float(FINE) + FINE / 2
            out.append((_smooth(points, 5), drained[cells]))
    return out


def _smooth(points: np.ndarray, width: int) -> np.ndarray:
    """A line with its corners rounded; the ends stay."""
    kernel = np.ones(width) / width
    padded = np.pad(points, ((width // 2, width // 2), (0, 0)), mode="edge")
    out = np.column_stack([np.convolve(padded[:, k], kernel, "valid") for k in (0, 1)])
    out[0], out[-1] = points[0], points[-1]
    return out


def _draw_rivers(
    codes: np.ndarray, rivers: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> None:
    for points, drained in rivers:
        width = np.clip(15 * (drained / 1e6) ** 0.5, 5, 80)
        bars = np.repeat(rng.random(len(points) // 6 + 1) < 0.45, 6)[: len(points)]
        for code in (GRAVEL, RIVER):
            for i in range(len(points) - 1):
                wide = width[i] if code == RIVER else width[i] * 2.4 + 3
                if code == RIVER or (bars[i] and drained[i] > 2.5e6):
                    _line(codes, points[i : i + 2], code, wide)


def _line(codes: np.ndarray, points: np.ndarray, code: int, width: float) -> None:
    import cv2

    cv2.polylines(codes, [np.round(points).astype(np.int32)[:, None]], False, code, max(1, round(width)))


def _towns(terrain: Terrain, wet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres `[n, 2]` (row, column at 10 m): flat ground near rivers, apart from each other; the first is the largest."""
    size = len(terrain.height)
    count = max(2, round((size / 128) ** 1.3 * (0.8 + 0.5 * rng.random())))
    good = -terrain.slope / 6 - np.abs(terrain.above_river - 10) / 25 + 0.8 * fractal(size, 2.0, rng)
    margin = max(4, size // 24)
    good[wet] = -np.inf
    good[:margin], good[-margin:], good[:, :margin], good[:, -margin:] = (-np.inf,) * 4
    out = []
    rows, cols = np.mgrid[:size, :size]
    for _ in range(count):
        at = np.unravel_index(int(good.argmax()), good.shape)
        if not np.isfinite(good[at]):
            break
        out.append(at)
        good[(rows - at[0]) ** 2 + (cols - at[1]) ** 2 < (size / 7) ** 2] = -np.inf
    return np.array(out, int).reshape(-1, 2)


def _zones(
    terrain: Terrain, towns: np.ndarray, wet: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Built and dug ground at 10 m, each a share of the land: towns round their centres, estates beside, quarries on slopes."""
    size = len(terrain.height)
    land = ~wet
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    pull = np.full((size, size), -np.inf, np.float32)
    for i, (r, c) in enumerate(towns):
        reach = (1.0, 0.62, 0.5, 0.36)[min(i, 3)] * (0.8 + 0.4 * rng.random())
        pull = np.maximum(pull, -np.hypot(rows - r, cols - c) / (reach * size / 10))
    rough = fractal(size, 2.2, rng, longest=0.25)
    town_field = pull + 0.35 * rough - np.maximum(terrain.slope - 8, 0) / 8
    town = land & (ranks(town_field, land) > 1 - _TOWN_SHARE * (0.7 + 0.6 * rng.random()))
    estate_field = -np.abs(pull + 1.9 + 0.5 * rng.random()) * 1.3 + 0.9 * fractal(
        size, 2.6, rng, longest=min(0.12, 30 / size)
    )
    estate_field -= np.maximum(terrain.slope - 5, 0) / 4
    estate = (
        land & ~town & (ranks(estate_field, land & ~town) > 1 - _ESTATE_SHARE * (0.6 + 0.8 * rng.random()))
    )
    quarry = np.zeros((size, size), bool)
    goal = _QUARRY_SHARE * land.sum() * (0.6 + 0.8 * rng.random())
    fit = np.flatnonzero(land & ~town & ~estate & (terrain.slope > 10) & (terrain.slope < 32))
    blob = fractal(size, 2.0, rng, longest=0.05)
    for _ in range(30):
        if quarry.sum() >= goal or len(fit) == 0:
            break
        r, c = divmod(int(rng.choice(fit)), size)
        radius = 3 + 7 * rng.random() ** 2
        quarry |= (np.hypot(rows - r, cols - c) + 1.2 * blob < radius) & land & ~town & ~estate
    return {"town": town, "estate": estate, "quarry": quarry}


def _paint(codes: np.ndarray, zone: np.ndarray, code: int) -> None:
    """A zone of the 10 m grid onto the fine one, with a smooth outline, not over water."""
    import cv2

    soft = cv2.GaussianBlur(zone.astype(np.float32), (0, 0), 0.9)
    for coarse, rows, inner in _strips(len(zone)):
        slab = soft[coarse]
        field = cv2.resize(slab, (codes.shape[1], len(slab) * FINE), interpolation=cv2.INTER_LINEAR)
        part = codes[rows]
        part[(field[inner] > 0.5) & ((part == NOTHING) | (part == GRAVEL))] = code


def _roads(
    terrain: Terrain, towns: np.ndarray, wet: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, float]]:
    """Roads of least effort between neighbouring towns and out of the valley, in fine cells, with widths in m."""
    step = 4
    slope = np.maximum(terrain.slope[::step, ::step], 0)
    cost = 1 + (slope / 5) ** 2 + 60 * wet[::step, ::step] + 0.6 * np.abs(fractal(len(slope), 2.0, rng))
    n = len(cost)
    nodes = np.clip(towns // step, 0, n - 1)
    exits = [np.array(e) for e in ((0, n // 2), (n // 2, 0), (n // 2, n - 1))]
    pairs = [
        (nodes[i], nodes[int(np.argmin(((nodes[:i] - nodes[i]) ** 2).sum(1)))]) for i in range(1, len(nodes))
    ]
    for e in exits:
        e = e + rng.integers(-n // 5, n // 5, 2) * (e % (n - 1) != 0)
        e = np.clip(e, 0, n - 1)
        if len(nodes):
            pairs.append((e, nodes[int(np.argmin(((nodes - e) ** 2).sum(1)))]))
    out = []
    for a, b in pairs:
        path = _least_cost(cost.astype(np.float64), int(a[0] * n + a[1]), int(b[0] * n + b[1]))
        points = np.column_stack([path % n, path // n]) * float(step * FINE) + step * FINE / 2
        if len(points) >= 3:
            out.append((_smooth(points, 5), 8.0))
    return out


@numba.njit(cache=True)
def _least_cost(cost, start, end):  # pragma: no cover - compiled
    """Cells of the cheapest way (Dijkstra, eight neighbours)."""
    rows, cols = cost.shape
    far = np.full(cost.size, np.inf)
    back = np.full(cost.size, -1, np.int64)
    far[start] = 0.0
    heap = [(0.0, start)]
    while len(heap) > 0:
        d, i = heapq.heappop(heap)
        if i == end:
            break
        if d > far[i]:
            continue
        r, c = i // cols, i % cols
        for dr in range(-1, 2):
            for dc in range(-1, 2):
                y, x = r + dr, c + dc
                if (dr == 0 and dc == 0) or y < 0 or x < 0 or y >= rows or x >= cols:
                    continue
                j = y * cols + x
                length = 1.41421356 if dr * dc != 0 else 1.0
                new = d + 0.5 * (cost[r, c] + cost[y, x]) * length
                if new < far[j]:
                    far[j], back[j] = new, i
                    heapq.heappush(heap, (new, j))
    count, i = 1, end
    while i != start and back[i] >= 0:
        i, count = back[i], count + 1
    path = np.empty(count, np.int64)
    i = end
    for k in range(count - 1, -1, -1):
        path[k] = i
        i = back[i]
    return path


def _draw_tracks(codes: np.ndarray, terrain: Terrain, rng: np.random.Generator) -> None:
    """Unpaved tracks along the slopes; they look like scars and gravel, and belong to what surrounds them."""
    import cv2

    size = len(terrain.height)
    drawn = np.zeros_like(codes)
    for _ in range(max(4, round((size / 40) ** 2 * 0.35))):
        r, c = rng.random(2) * size
        turn = 1 if rng.random() < 0.5 else -1
        points = []
        for _ in range(int(20 + 60 * rng.random())):
            if not (0 <= r < size and 0 <= c < size):
                break
            points.append((c * FINE, r * FINE))
            along = terrain.aspect[int(r), int(c)] + turn * (np.pi / 2 - 0.12)
            r, c = r - 1.6 * np.cos(along), c + 1.6 * np.sin(along)
        if len(points) > 8:
            line = _smooth(np.array(points), 5)
            cv2.polylines(drawn, [np.round(line).astype(np.int32)[:, None]], False, 1, 4)
    codes[(drawn > 0) & (codes == NOTHING)] = TRACK


def _houses(
    codes: np.ndarray, terrain: Terrain, to_road: np.ndarray, rng: np.random.Generator
) -> tuple[int, int]:
    """Isolated houses of 9 to 15 m, in small groups near roads and on gentle ground; some are lost to the labels."""
    import cv2

    size = len(terrain.height)
    chance = np.exp(-to_road / 350) * np.exp(-np.maximum(terrain.slope - 6, 0) / 7) + 0.004
    chance[terrain.sea | terrain.lake] = 0
    chance = (chance / chance.sum()).ravel().astype(np.float64)
    goal = _HOUSE_SHARE * (~terrain.sea).sum() * FINE**2 * (0.6 + 0.8 * rng.random())
    area, houses, lost = 0.0, 0, 0
    for seat in rng.choice(len(chance), size=100 + size * size // 40, p=chance / chance.sum()):
        if area >= goal:
            break
        row, col = divmod(int(seat), size)
        angle = rng.random() * np.pi
        for _ in range(1 + rng.poisson(1.3)):
            x = col * FINE + rng.normal(0, 22) + FINE / 2
            y = row * FINE + rng.normal(0, 22) + FINE / 2
            a, b = 9 + 6 * rng.random(2)
            box = (
                cv2.boxPoints(((float(x), float(y)), (float(a), float(b)), float(np.degrees(angle))))
                .round()
                .astype(np.int32)
            )
            if box.min() < 2 or box.max() >= len(codes) - 2:
                continue
            around = codes[
                box[:, 1].min() - 1 : box[:, 1].max() + 2, box[:, 0].min() - 1 : box[:, 0].max() + 2
            ]
            if not np.isin(around, (NOTHING, TRACK)).all():
                continue
            missing = rng.random() < _LOST
            cv2.fillPoly(codes, [box], LOST_HOUSE if missing else HOUSE)
            houses, lost, area = houses + 1, lost + int(missing), area + a * b
    return houses, lost
