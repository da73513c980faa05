"""Networks asked several times of a window, turned, at other resolutions, or several of them; and the mean of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raremap.maps.lanes import SharingNetwork
from raremap.maps.options import PredictOptions
from raremap.maps.resize import resized
from raremap.scene.features.views import Views
from raremap.scene.turn import dihedral, undone

if TYPE_CHECKING:
    from raremap.maps.stream import Network
    from raremap.scene.features.options import Feature


@dataclass(frozen=True)
class Voice:
    """A network of an average: the `features` that it wants after the bands, and by which its probabilities are
    multiplied, `[K]` (None: by nothing), before they are made to sum to 1 again."""

    network: Network
    features: tuple[Feature, ...] = ()
    factors: np.ndarray | None = None


def averaged(voices: Sequence[Voice], bands: Sequence[str], options: PredictOptions) -> Network:
    """A network that gives the mean of the voices' probabilities over `options.turns` and `options.scales`.

    It wants the channels of `scene.features.views.viewed` with the same features and turns. A voice alone that is
    asked once is given as it is.
    """
    if len(voices) == 1 and voices[0].factors is None and not options.averaged:
        return voices[0].network
    views = Views.of(bands, [v.features for v in voices], options.turns)
    return Averaged(voices, views, options)


class Averaged:
    """The mean of what voices say of turned and resized windows; see `averaged`.

    Each window is turned by itself, so that windows and blending stay as they are. What a voice says is turned back,
    and brought back to the window's size, before it is added.
    """

    def __init__(self, voices: Sequence[Voice], views: Views, options: PredictOptions) -> None:
        self._voices, self._views, self._options = tuple(voices), views, options

    @property
    def lanes(self) -> int:
        """How many threads may ask at once."""
        return min(getattr(v.network, "lanes", 1) for v in self._voices)

    @property
    def threads(self) -> int:
        """Threads of the processor that the voices, one after the other, may take."""
        return min(getattr(v.network, "threads", 1) for v in self._voices)

    def share(self, lanes: int) -> None:
        """Have so many lanes from now on, each asking all voices."""
        for voice in self._voices:
            if isinstance(voice.network, SharingNetwork):
                voice.network.share(lanes)

    def enter_lane(self) -> None:
        """Prepare the thread that calls it."""
        # It sets up the thread and not the network, so that one of them is enough.
        enter = getattr(self._voices[0].network, "enter_lane", None)
        if enter is not None and self.lanes > 1:
            enter()

    def at_once(self, ask: Callable[[int], object], most: int) -> int | None:
        """How many windows fit on the voices' device, all views and voices included; None on a processor."""
        find = getattr(self._voices[0].network, "at_once", None)
        return None if find is None else find(ask, most)

    @property
    def most(self) -> int | None:
        """What the device had room for at once, where it was less than it was asked."""
        found = [getattr(v.network, "most", None) for v in self._voices]
        return min((count for count in found if count), default=None)

    @property
    def precision(self) -> str:
        """What the voices compute in; with commas between where they differ."""
        found = dict.fromkeys(getattr(v.network, "precision", "float32") for v in self._voices)
        return ", ".join(found)

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probs float32 `[B, K, h, w]` of channels `[B, C, h, w]` and validity `[B, h, w]`."""
        size = valid.shape[-2:]
        total: np.ndarray | None = None
        for scale in self._options.scales:
            smaller = (max(1, round(scale * size[0])), max(1, round(scale * size[1])))
            same = smaller == size
            pixels, usable = (image, valid) if same else resized(image, valid, smaller)
            said = self._said(pixels, usable)
            said = said if same else resized(said, usable, size)[0]
            total = said if total is None else np.add(total, said, out=total)
        assert total is not None
        return np.divide(total, np.float32(len(self._options.scales)), out=total)

    def _said(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The mean over voices and turns."""
        total: np.ndarray | None = None
        for i, voice in enumerate(self._voices):
            for code in self._options.turns:
                rows = self._views.rows(i, code)
                turned = dihedral(image if rows is None else image[:, rows], code)
                probs = voice.network(
                    np.ascontiguousarray(turned), np.ascontiguousarray(dihedral(valid, code))
                )
                if voice.factors is not None:
                    probs = probs * voice.factors[:, None, None]
                    probs /= probs.sum(1, keepdims=True)
                back = dihedral(probs, undone(code))
                # The first may be the network's own array.
                total = np.array(back, np.float32) if total is None else np.add(total, back, out=total)
        assert total is not None
        return np.divide(total, np.float32(len(self._voices) * len(self._options.turns)), out=total)
