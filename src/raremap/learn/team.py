"""`Team`: the processes of one training, each with a share of every batch, as one of them sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """Process `rank` of `size`, whose torch group is made where there are several; `ray`: Ray started them."""

    rank: int = 0
    size: int = 1
    ray: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    @property
    def pool(self) -> Callable[[Tensor], Tensor] | None:
        """How losses sum over the shares of a batch; None where there is one."""
        from raremap.measure.terms.pool import pooled

        return pooled if self.size > 1 else None

    def summed(self, of_share: Tensor) -> Tensor:
        """The sum over all, without a gradient, the same in each; in place."""
        if self.size > 1:
            torch.distributed.all_reduce(of_share)
        return of_share

    def gathered(self, of_each: Any) -> list[Any]:
        """Something of each, in the order of their ranks."""
        if self.size == 1:
            return [of_each]
        out: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(out, of_each)
        return out


ALONE = Team()
