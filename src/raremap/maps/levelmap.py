"""A written map at a level of its class tree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from raremap.classtree import Level, level
from raremap.errors import LabelError
from raremap.labels import LabelScheme
from raremap.maps.classmap import ClassMap
from raremap.scene.window import Window

TAG = "class_tree"
"""Tag of a map: its tree as JSON, name to the group above."""


@dataclass(frozen=True)
class LevelMap(ClassMap):
    """A map whose classes are those of `level`, which merges the classes of `source`."""

    source: ClassMap
    level: Level

    def read(self, window: Window) -> np.ndarray:
        """Class index int32 `[h, w]` of a window, -1 where there is none."""
        table = np.array([*self.level.groups, -1], np.int32)
        return table[self.source.read(window)]


def at_level(source: ClassMap, steps: int, parents: dict[str, str] | None = None) -> LevelMap:
    """A map some steps up its tree; `parents` where its tags hold none. Raises `LabelError`."""
    parents = parents or _tree_of(source)
    if not parents:
        raise LabelError(
            f"{source.path} says nothing of parents of its classes; give them, as parents: {{house: built}}"
        )
    classes: dict[Any, str] = dict(zip(source.values, source.names, strict=True))
    colors = dict(zip(source.names, source.colors, strict=True))
    try:
        found = level(LabelScheme(classes, colors=colors, parents=parents), steps)
    except ValueError as error:
        raise LabelError(f"the tree of {source.path} cannot be used: {_message(error)}") from None
    scheme = found.scheme
    tags = {k: v for k, v in source.tags.items() if k != TAG}
    if scheme.parents:
        tags[TAG] = json.dumps(scheme.parents)
    return LevelMap(
        source.path, source.file, scheme.values, scheme.names, scheme.palette, source.nodata, tags, source, found
    )  # fmt: skip


def _tree_of(source: ClassMap) -> dict[str, str]:
    try:
        tree = json.loads(source.tags.get(TAG, "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in tree.items()} if isinstance(tree, dict) else {}


def _message(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return errors()[0]["msg"].removeprefix("Value error, ") if errors else str(error)
