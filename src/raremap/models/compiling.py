"""Networks made faster by `torch.compile`, for the device that they compute on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, reason

log = logging.getLogger("raremap")


def compiled(module: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The module, which is compiled by the first image that it is asked of, and again by others of another size.

    That takes up to a minute, and seconds where the same was compiled on this machine before. Raises `ConfigError` where
    nothing can be compiled for the device, a compiler being missing; what is returned raises it where the module cannot be.
    """
    _asked(torch.compile(_nothing_much), torch.ones(64, device=device), "torch.compile does not work here")
    log.info(
        "compiling the network for %s: up to a minute, seconds where this machine has done it before", device
    )
    fast = torch.compile(module)
    return lambda image: _asked(fast, image, "the network cannot be compiled")


def _asked(function: Callable[[Tensor], Tensor], image: Tensor, fault: str) -> Tensor:
    from torch._dynamo.exc import TorchDynamoException  # which takes a second to load

    try:
        return function(image)
    except TorchDynamoException as error:
        raise ConfigError(
            f"{fault} ({_cause(error)}); install a C++ compiler such as g++ where it is missing, or leave out --compile"
        ) from None


def _cause(error: BaseException) -> str:
    """What went wrong at first, in one line: the compiler's exception stands behind those of torch."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return reason(error)


def _nothing_much(values: Tensor) -> Tensor:
    return values * 2 + 1
