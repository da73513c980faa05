"""Networks on any size of image, and on raw pixels as maps have them.

Axes: B batch, C bands, K classes, H W pixels.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.errors import ConfigError
from raremap.models import room
from raremap.models.compiling import compiled as compiled_for
from raremap.models.precision import Precision, checked

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization

log = logging.getLogger("raremap")

# Where sixteen bits move a probability by more than this on average, or change more classes, float32 is used.
_MEAN, _CLASSES = 0.01, 0.01
_SIXTEEN_BITS = {"bf16": torch.bfloat16, "float16": torch.float16}


class AnySize(nn.Module):
    """A network that needs multiples of `stride`, made fit for any size: padded by its edge, then cut back."""

    def __init__(self, net: nn.Module, stride: int) -> None:
        super().__init__()
        self.net, self.stride = net, stride

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, K, H, W]` of an image `[B, C, H, W]`."""
        height, width = image.shape[-2:]
        logits = self.net(padded(image, self.stride))
        return logits if logits.shape[-2:] == (height, width) else logits[..., :height, :width]


def padded(image: Tensor, stride: int) -> Tensor:
    """The image with its last row and column repeated until both sides are multiples of `stride`."""
    below, right = (-side % stride for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def best_device(device: str = "auto") -> torch.device:
    """The device asked for, or the fastest that is here."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
            return torch.device(device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ConfigError(
                f"device '{device}' is not here; use auto, or one of {', '.join(_devices())}"
            ) from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _devices() -> list[str]:
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, yes in here.items() if yes]


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is native there; emulated it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # oneDNN says yes to any AVX-512, also where it has to emulate.
    if "avx" in torch.backends.cpu.get_cpu_capability().lower():
        return any(
            getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("avx512_bf16", "amx_tile")
        )
    return True


def fast_on(device: torch.device) -> str | None:
    """The precision of sixteen bits that is fast there: bf16, or float16 on CUDA devices that have units for that alone."""
    if has_bf16(device):
        return "bf16"
    # Units for float16 came with capability 7.0; before them it is slower than float32.
    return "float16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) else None


class TorchNetwork:
    """A torch module as maps need it: pixels as stored and their validity in, probabilities out.

    `precision` "auto" is bf16, or float16 where a CUDA device has no bf16, if that agrees with float32 on the
    first images with a valid pixel (said in the log). What float16 cannot hold is computed again in float32. Several threads may ask at once: `lanes` says how many. On a
    processor they share its `threads`, so that a thread that called `enter_lane` computes alone where there are as many
    lanes, which spares the others waiting for it at every layer; on a CUDA device it has a stream of its own, so that one copies while the other computes. Where a CUDA device
    has no room for what it is asked, it is asked in halves from then on: `most` at once. Where it is `compiled`,
    windows are computed by what `torch.compile` makes of the module; trials by the module itself: windows without a valid pixel, and what settles the precision.
    """

    def __init__(
        self,
        module: nn.Module,
        normalization: Normalization,
        device: str = "auto",
        precision: Precision | str = "auto",
        compiled: bool = False,
    ) -> None:
        """Raises `ConfigError` where there is no such precision, or the device is not here, or nothing can be compiled for it."""
        self._precision = checked(precision)
        self.device = best_device(device)
        self._module = module.to(self.device).to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        self._compiled = compiled_for(self._module, self.device) if compiled else None
        shape = (1, -1, 1, 1)
        self._shift = torch.tensor(normalization.shift, dtype=torch.float32, device=self.device).reshape(
            shape
        )
        self._scale = torch.tensor(normalization.scale, dtype=torch.float32, device=self.device).reshape(
            shape
        )
        self._fast = fast_on(self.device)
        if self._precision == "auto" and self._fast is None:
            self._precision = "float32"
        self._first = threading.Lock()
        self.threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.lanes = {"cpu": self.threads, "cuda": 2}.get(self.device.type, 1)
        self.most: int | None = None
        # Always the same two: memory that torch took for one stream waits there for that stream.
        self._streams = (
            itertools.cycle([torch.cuda.Stream(self.device) for _ in range(self.lanes)])
            if self.device.type == "cuda"
            else None
        )

    def share(self, lanes: int) -> None:
        """Have so many lanes from now on, `threads // lanes` threads each."""
        self.lanes = lanes

    def enter_lane(self) -> None:
        """Let this thread compute with its share of the threads, or in a stream of its own; threads made later get the usual number."""
        if self._streams is not None:
            stream = next(self._streams)
            stream.wait_stream(torch.cuda.default_stream(self.device))  # which brought the weights
            torch.cuda.set_stream(stream)
        elif self.lanes > 1:
            # A thread's first computation takes the usual number, and would undo what was set before it.
            torch.get_num_threads()
            torch.set_num_threads(self.threads // self.lanes)  # of this thread, and of those made from now on
            usual = threading.Thread(target=torch.set_num_threads, args=(self.threads,))
            usual.start()
            usual.join()

    @property
    def precision(self) -> str:
        """What is computed in; "auto" until the first images were seen."""
        return self._precision

    def at_once(self, ask: Callable[[int], object], most: int) -> int | None:
        """How many windows, `most` at the most, a CUDA device has room for when it is to `ask` so many; else None."""
        if self.device.type != "cuda":
            return None
        count = room.at_once(ask, room.CudaMemory(self.device), most, self.lanes)
        log.info("%d windows at once on %s", count, self.device)
        return count

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[B, K, h, w]` of an image `[B, C, h, w]` with validity `[B, h, w]`.

        Raises `ConfigError` where the device has no room for one window.
        """
        parts: list[np.ndarray] = []
        start = 0
        while start < len(image):
            part = slice(start, start + min(self.most or len(image), len(image)))
            full = False
            try:
                parts.append(self._asked(image[part], valid[part]))
                start = part.stop
            except torch.cuda.OutOfMemoryError:
                full = True
            if full:  # not above, where the fault still holds what the network had made
                self._halve(min(part.stop, len(image)) - start, valid.shape[1:])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, count: int, size: tuple[int, ...]) -> None:
        """Ask for fewer than `count` windows from now on."""
        if count == 1:
            raise ConfigError(
                f"device {self.device} has no room for one window of {' × '.join(map(str, size))} pixels; "
                "use --window with a smaller one, or --device cpu"
            )
        self.most = min(self.most or count, count // 2)
        log.warning("%s has no room for %d windows at once: %d from now on", self.device, count, self.most)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _asked(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = self._normalized(image, valid)
            with self._first:
                # Windows without a valid pixel say nothing of how precise the network is.
                if self._precision == "auto" and self._fast is not None and valid.any():
                    self._precision = self._fast if self._agrees(x, self._fast) else "float32"
            module = self._module if self._compiled is None or not valid.any() else self._compiled
            probs = self._probabilities(x, self._precision, module)
            if self._precision == "float16" and not probs.isfinite().all():
                probs = self._probabilities(x, "float32")
            return probs.cpu().numpy()

    def _moved(self, array: np.ndarray) -> Tensor:
        """An array on the device; what is copied from pinned memory does not keep the other lane waiting."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _normalized(self, image: np.ndarray, valid: np.ndarray) -> Tensor:
        if image.dtype not in (np.uint8, np.int16, np.float32):
            image = image.astype(np.float32)  # torch lacks arithmetic on other unsigned types
        x = self._moved(image)
        # Arithmetic first, then the layout: on channels-last memory the same arithmetic is many times slower.
        x = x.to(torch.float32, copy=True).sub_(self._shift).mul_(self._scale)
        if not valid.all():
            x.mul_(self._moved(valid).unsqueeze(1))
            x.nan_to_num_(nan=0.0)  # NaN marks no data, and NaN times 0 is NaN
        return x.contiguous(memory_format=torch.channels_last)

    def _probabilities(
        self, x: Tensor, precision: str, module: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        dtype = _SIXTEEN_BITS.get(precision)
        # The cache of casted weights is one for all threads: another lane's cast may not be done yet.
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            logits = (module or self._module)(x)
        return torch.softmax(logits.float(), 1)

    def _agrees(self, x: Tensor, precision: str) -> bool:
        exact, fast = self._probabilities(x, "float32"), self._probabilities(x, precision)
        difference = float((exact - fast).abs().mean())
        changed = float((exact.argmax(1) != fast.argmax(1)).float().mean())
        good = difference <= _MEAN and changed <= _CLASSES
        log.info(
            "%s %s: mean difference %.4f, %.2f %% of classes change",
            precision,
            "used" if good else "left",
            difference,
            100 * changed,
        )
        return good
