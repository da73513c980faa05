"""Sections of an experiment that a known layout stands for."""

from __future__ import annotations

from typing import Any

from raremap.keys import merge


def laid_out(data: dict[str, Any]) -> dict[str, Any]:
    """The keys with `scenes.layout` put into words: what it says of a folder is below what the file says."""
    scenes = data.get("scenes")
    if not isinstance(scenes, dict) or not isinstance(scenes.get("layout"), str):
        return data
    from raremap.scene.sources import expand
    from raremap.tiles.formats import layout

    below = layout(scenes["layout"], expand(str(scenes.get("root") or ".")))
    out = dict(data, scenes={k: v for k, v in scenes.items() if k not in ("layout", "root")})
    if isinstance(out.get("labels"), str):
        below.pop("labels", None)
    return merge(below, out)
