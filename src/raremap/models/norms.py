"""Group norms in the place of batch norms."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_GROUPS, _CHANNELS = 32, 8


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
