"""Options of the balance: what the network sees."""

from __future__ import annotations

from typing import Literal

from raremap.options import Options


class BalanceOptions(Options):
    """`uniform`: every training tile alike, the natural stream."""

    kind: Literal["uniform"] = "uniform"
