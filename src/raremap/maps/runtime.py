"""`RuntimeNetwork`: an exported model as maps need it, run by ONNX Runtime; no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import BundleError, ConfigError, MissingExtra, reason

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class RuntimeNetwork:
    """Channels and validity in, probabilities before the temperature out: what maps blend and decide.

    The graph's own probabilities are after `temperature`, p^(1/t) but for their sum, so that they are raised to t
    again. `fixed` is the only size of a graph that takes no other: smaller windows are padded by their edge. On a
    processor `lanes` threads compute a window each and share its `threads`, as `TorchNetwork`'s do.
    """

    def __init__(
        self,
        path: str | Path,
        temperature: float = 1.0,
        fixed: tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "float32",
        content: bytes | None = None,
    ) -> None:
        """`content` is what the file holds, where it is not at `path` on this machine.

        Raises `BundleError` where the file is not a model, `ConfigError` where the device is not here.
        """
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "export") from None
        here = {d: p for d, p in _PROVIDERS.items() if p in onnxruntime.get_available_providers()}
        device = ("cuda" if "cuda" in here else "cpu") if device == "auto" else device
        if device not in here:
            raise ConfigError(
                f"device '{device}' is not here for ONNX Runtime; use auto, or one of {', '.join(here)}"
            )
        self.threads = self.lanes = threads() if device == "cpu" else 1
        self.precision = precision
        self._path, self._content = path, content
        self._temperature, self._fixed = np.float32(temperature), fixed
        self._provider = here[device]
        self._session = self._begun(1)

    def _begun(self, together: int) -> InferenceSession:
        """The graph, ready to be run by `together` threads of its own, the one that asks among them."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what matters comes as an exception
        options.intra_op_num_threads, options.inter_op_num_threads = together, 1
        # Threads that spin while they wait cost five times the time where a container has fewer processors than it sees.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            graph = self._content or str(self._path)
            return onnxruntime.InferenceSession(graph, options, providers=[self._provider])
        except Exception as error:  # its exceptions have no common class of their own
            raise BundleError(
                f"{self._path} cannot be read by ONNX Runtime ({reason(error)}); export the bundle again"
            ) from None

    def share(self, lanes: int) -> None:
        """Have so many lanes from now on; the other threads are the session's, which helps whichever lane asks."""
        if lanes != self.lanes:
            self._session = self._begun(self.threads - lanes + 1)
            self.lanes = lanes

    def enter_lane(self) -> None:
        """Nothing to prepare: a session computes in the thread that asks."""

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probs float32 `[B, K, h, w]` of channels `[B, C, h, w]` as stored and validity `[B, h, w]`."""
        probs = self.run(image, valid)[0]
        if self._temperature != 1:
            np.power(probs, self._temperature, out=probs)
            probs /= probs.sum(1, keepdims=True)
        return probs

    def run(self, image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the graph itself gives: probabilities float32 `[B, K, h, w]` and class values uint8 `[B, h, w]`."""
        image = np.ascontiguousarray(image, np.float32)
        valid = np.ascontiguousarray(valid, bool)
        if self._fixed is None:
            return self._asked(image, valid)
        height, width = valid.shape[-2:]
        below, right = self._fixed[0] - height, self._fixed[1] - width
        if below < 0 or right < 0:
            raise BundleError(
                f"{self._path} takes windows of {self._fixed[0]} × {self._fixed[1]} pixels, this one has "
                f"{height} × {width}; use --window {min(self._fixed)}, or export without --fixed"
            )
        image = np.pad(image, ((0, 0), (0, 0), (0, below), (0, right)), "edge")
        valid = np.pad(valid, ((0, 0), (0, below), (0, right)), "edge")
        each = [self._asked(image[i : i + 1], valid[i : i + 1]) for i in range(len(image))]
        probs, classes = (np.concatenate(parts) for parts in zip(*each, strict=True))
        return probs[..., :height, :width].copy(), classes[..., :height, :width].copy()

    def _asked(self, image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            probs, classes = self._session.run(["probabilities", "classes"], {"image": image, "valid": valid})
        except Exception as error:
            raise BundleError(
                f"{self._path} cannot compute an image of {' × '.join(map(str, image.shape))} ({reason(error)})"
            ) from None
        return np.asarray(probs), np.asarray(classes)


def threads() -> int:
    """How many threads this process may use: those of OpenMP's setting, or the processor's that it was given."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
