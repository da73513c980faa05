"""Networks on any size of image, and on raw pixels as maps have them.

Axes: B batch, C bands, K classes, H W pixels.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.errors import ConfigError

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization

log = logging.getLogger("raremap")

# Where bf16 moves a probability by more than this on average, or changes more classes, float32 is used.
_BF16_MEAN, _BF16_CLASSES = 0.01, 0.01


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


class TorchNetwork:
    """A torch module as maps need it: pixels as stored and their validity in, probabilities out.

    `precision` is "float32", "bf16" or "auto": bf16 where it is native and agrees with float32 on the
    first images (said in the log). On a processor several threads may ask at once: `lanes` says how many,
    and a thread that called `enter_lane` computes alone, which spares the others waiting for it at every layer.
    """

    def __init__(
        self, module: nn.Module, normalization: Normalization, device: str = "auto", precision: str = "auto"
    ) -> None:
        self.device = best_device(device)
        self._module = module.to(self.device).to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        shape = (1, -1, 1, 1)
        self._shift = torch.tensor(normalization.shift, dtype=torch.float32, device=self.device).reshape(
            shape
        )
        self._scale = torch.tensor(normalization.scale, dtype=torch.float32, device=self.device).reshape(
            shape
        )
        self._bf16: bool | None = {"float32": False, "bf16": True}.get(precision)
        if self._bf16 is None and not has_bf16(self.device):
            self._bf16 = False
        self._first = threading.Lock()
        self._threads = torch.get_num_threads()
        self.lanes = self._threads if self.device.type == "cpu" else 1

    def enter_lane(self) -> None:
        """Let this thread compute alone; threads made later get the usual number."""
        if self.lanes > 1:
            # A thread's first computation takes the usual number, and would undo what was set before it.
            torch.get_num_threads()
            torch.set_num_threads(1)  # of this thread, and of those made from now on
            usual = threading.Thread(target=torch.set_num_threads, args=(self._threads,))
            usual.start()
            usual.join()

    @property
    def precision(self) -> str:
        """What is computed in; "auto" until the first images were seen."""
        return "auto" if self._bf16 is None else "bf16" if self._bf16 else "float32"

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[B, K, h, w]` of an image `[B, C, h, w]` with validity `[B, h, w]`."""
        with torch.inference_mode():
            x = self._normalized(image, valid)
            with self._first:
                if self._bf16 is None:
                    self._bf16 = self._agrees(x)
            return self._probabilities(x, self._bf16).cpu().numpy()

    def _normalized(self, image: np.ndarray, valid: np.ndarray) -> Tensor:
        if image.dtype not in (np.uint8, np.int16, np.float32):
            image = image.astype(np.float32)  # torch lacks arithmetic on other unsigned types
        x = torch.from_numpy(image).to(self.device)
        # Arithmetic first, then the layout: on channels-last memory the same arithmetic is many times slower.
        x = x.to(torch.float32, copy=True).sub_(self._shift).mul_(self._scale)
        if not valid.all():
            x.mul_(torch.from_numpy(valid).to(self.device).unsqueeze(1))
            x.nan_to_num_(nan=0.0)  # NaN marks no data, and NaN times 0 is NaN
        return x.contiguous(memory_format=torch.channels_last)

    def _probabilities(self, x: Tensor, bf16: bool) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits = self._module(x)
        return torch.softmax(logits.float(), 1)

    def _agrees(self, x: Tensor) -> bool:
        exact, fast = self._probabilities(x, False), self._probabilities(x, True)
        difference = float((exact - fast).abs().mean())
        changed = float((exact.argmax(1) != fast.argmax(1)).float().mean())
        good = difference <= _BF16_MEAN and changed <= _BF16_CLASSES
        log.info(
            "bf16 %s: mean difference %.4f, %.2f %% of classes change",
            "used" if good else "left",
            difference,
            100 * changed,
        )
        return good
