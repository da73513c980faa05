"""Class trees: the classes of a scheme merged into their parents, level after level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raremap.errors import LabelError
from raremap.labels import LabelScheme

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Level:
    """A level of a tree: its own scheme, and for each class of the finest the index of its group."""

    scheme: LabelScheme
    groups: tuple[int, ...]

    def summed(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        """Sums over the classes of each group along an axis, such as probabilities or shares.

        >>> import numpy as np
        >>> Level(LabelScheme({0: "a", 2: "b"}), (0, 0, 1)).summed(np.array([0.25, 0.5, 0.25]))
        array([0.75, 0.25])
        """
        import numpy as np

        values = np.moveaxis(values, axis, 0)
        out = np.zeros((self.scheme.num_classes, *values.shape[1:]), values.dtype)
        for group, value in zip(self.groups, values, strict=True):
            out[group] += value
        return np.moveaxis(out, 0, axis)

    def confusion(self, matrices: np.ndarray) -> np.ndarray:
        """Confusion matrices `[..., K, K]` of the classes to those of the groups."""
        return self.summed(self.summed(matrices, -1), -2)


def depth(scheme: LabelScheme) -> int:
    """Steps from the classes up to the last level that differs; 0 without parents."""
    names, steps = tuple(scheme.names), 0
    while (above := tuple(scheme.parents.get(n, n) for n in names)) != names:
        names, steps = above, steps + 1
    return steps


def level(scheme: LabelScheme, steps: int) -> Level:
    """The scheme some steps up its tree: every class in its parent; those without one stay as they are.

    A group has the value of its first class, and that one's colour unless `colors` names the group. It is rare
    where all of its classes are named rare. Raises `LabelError` where the tree is not so high, or one
    class would be left.
    """
    most = depth(scheme)
    if not 0 <= steps <= most:
        tall = f"its tree has {most} level(s) above them" if most else "its classes have no parents"
        raise LabelError(f"there is no level {steps} of the classes: {tall}")
    names = list(scheme.names)
    for _ in range(steps):
        names = [scheme.parents.get(n, n) for n in names]
    kept = list(dict.fromkeys(names))
    if len(kept) < 2:
        raise LabelError(f"at level {steps} all classes are '{kept[0]}'; choose a lower level")
    first = {name: names.index(name) for name in kept}
    colors = {n: scheme.colors.get(n, scheme.palette[i]) for n, i in first.items()}
    rare = scheme.rare
    if rare is not None:
        rare = tuple(
            n for n in kept if all(c in rare for c, g in zip(scheme.names, names, strict=True) if g == n)
        )
    merged = LabelScheme(
        {scheme.values[i]: n for n, i in first.items()},
        colors=colors,
        rare=rare,
        parents=_reachable(scheme.parents, kept),
    )
    return Level(merged, tuple(kept.index(n) for n in names))


def _reachable(parents: dict[str, str], names: list[str]) -> dict[str, str]:
    """The part of a tree that is above some names."""
    found: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in parents and name not in found:
            found[name] = parents[name]
            todo.append(parents[name])
    return found
