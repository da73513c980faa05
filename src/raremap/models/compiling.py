"""Networks made faster by `torch.compile`, for the device that they compute on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, reason

Function = Callable[[Tensor], Tensor]


def compiled(module: nn.Module, device: torch.device) -> Function:
    """The module, which is compiled by the first image that it is asked of, and again by others of another size.

    That takes up to a minute, and seconds where the same was compiled on this machine before. Raises `ConfigError` where
    nothing can be compiled for the device, a compiler being missing; what is returned raises it where the module cannot be.
    """
    telling(_nothing_much, "torch.compile does not work here")(torch.ones(64, device=device))
    return telling(module, "the network cannot be compiled")


def telling(function: Function, fault: str) -> Function:
    """A function by `torch.compile`, which raises `ConfigError` with `fault` and its cause where it cannot be compiled."""
    from torch._dynamo.exc import TorchDynamoException  # which takes a second to load

    fast = torch.compile(function)

    def ask(values: Tensor) -> Tensor:
        try:
            return fast(values)
        except TorchDynamoException as error:
            # The compiler's own stands in that of torch.
            cause = reason(getattr(error, "inner_exception", error))
            raise ConfigError(
                f"{fault} ({cause}); install a C++ compiler such as g++ and Python's headers where they are missing, "
                "or leave out --compile"
            ) from None

    return ask


def _nothing_much(values: Tensor) -> Tensor:
    return values * 2 + 1
