"""Anyone's network: whether it takes the images that it will get, and gives logits of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, reason
from raremap.models.outputs import Outputs


def check_network(
    network: nn.Module, channels: Sequence[str], num_classes: int, sizes: Iterable[tuple[int, int]]
) -> None:
    """Ask a network for the logits of an empty image of each size (height, width); nothing of it changes.

    Raises `ConfigError` where it fails, or gives anything else than logits `[1, K, H, W]`; what it raised stands behind
    that.
    """
    if next(network.parameters(), None) is None:
        raise ConfigError(f"module {type(network).__name__} has no weights; there is nothing to train")
    device, modes = next(network.parameters()).device, [(m, m.training) for m in network.modules()]
    network.eval()
    try:
        for size in sizes:
            given, expected = (1, len(channels), *size), (1, num_classes, *size)
            told = (
                f"module {type(network).__name__}, asked for an image {list(given)} of {', '.join(channels)},"
            )
            try:
                with torch.no_grad():
                    found = network(torch.zeros(given, device=device))
            except Exception as error:  # it may raise whatever its author had in mind
                raise ConfigError(
                    f"{told} fails ({reason(error)}); it must take so many channels, and images of any size: where its "
                    "sides have to be multiples, wrap it as raremap.models.forward.AnySize(module, 32)"
                ) from error
            found = found.logits if isinstance(found, Outputs) else found
            if not isinstance(found, Tensor):
                raise ConfigError(
                    f"{told} gives a {type(found).__name__}, expected logits {list(expected)}; return them alone"
                )
            if tuple(found.shape) != expected:
                raise ConfigError(
                    f"{told} gives {list(found.shape)}, expected logits {list(expected)}: {num_classes} classes, an answer at "
                    "every pixel"
                )
    finally:
        for part, training in modes:
            part.training = training
