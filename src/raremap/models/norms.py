"""Batch norms that take a batch of one or all of several processes', and group norms in their place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_GROUPS, _CHANNELS = 32, 8


def with_lone_values(network: nn.Module) -> nn.Module:
    """The network, able to train where a channel has a single value: its batch norms use their running statistics there.

    So it is with a batch of one where the image is pooled to one pixel. Changed in place, by hooks: a norm stays of its
    class, whatever that does besides (timm's have the activation in them).
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_before)
            module.register_forward_hook(_after, always_call=True)
    return network


def _before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if norm.training and inputs[0].numel() == inputs[0].shape[1]:
        norm.training, norm._lone = False, True  # type: ignore[assignment]


def _after(norm: nn.Module, _inputs: Any, _output: Any) -> None:
    if norm.__dict__.pop("_lone", False):
        norm.training = True


def synced(network: nn.Module) -> nn.Module:
    """The network with batch norms whose statistics are of all processes that train together.

    By timm: torch's own would put a bare norm in the place of one that has its activation in it.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    return convert_sync_batchnorm(network)


def grouped(network: nn.Module) -> nn.Module:
    """The network with a group norm (Wu and He 2018) for each batch norm, with its weights; changed in place.

    At most 32 groups, of at least 8 channels each: of fewer nothing would be left where an image is pooled to
    one pixel. An activation that a batch norm of timm's brings stays behind it.
    """
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, _group_norm(child))
        else:
            grouped(child)
    return network


def groups_of(channels: int) -> int:
    """How many groups so many channels make.

    >>> [groups_of(n) for n in (4, 8, 24, 64, 184, 1024)]
    [1, 1, 3, 8, 23, 32]
    """
    most = min(_GROUPS, max(1, channels // _CHANNELS))
    return max(g for g in range(1, most + 1) if channels % g == 0)


def _group_norm(norm: _BatchNorm) -> nn.Module:
    group = nn.GroupNorm(groups_of(norm.num_features), norm.num_features, norm.eps, affine=norm.affine)
    if norm.affine:
        group.weight, group.bias = norm.weight, norm.bias
    after = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(m, nn.Module)]
    return nn.Sequential(group, *after) if after else group
