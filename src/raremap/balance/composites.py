"""DIAO-CP's composites: tiles with objects of rare classes pasted where their surroundings are plausible.

A reconstruction: no code of the article is public (METHODS §a, §j). Objects and backgrounds are chosen by
the gain that chooses tiles to repeat, KL(q ‖ P) − KL(q ‖ P'), on the counts of the composited mask.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.paste import Pasted
from raremap.balance.proposal import Proposal, pastable
from raremap.errors import CatalogError
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.balance.bank import ObjectBank
    from raremap.balance.options import CopyPasteOptions
    from raremap.tiles.catalog import Catalog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Composites:
    """Proposed composites, a row each.

    `row` `[M]`: catalog row of the background. Of each composite's objects, in the order they are pasted:
    `objects` (bank indices), `code` (D4, 0 to 7), `scale`, `top` and `left` (corner of the transformed patch
    in the tile, pixels; may lie outside). `counts` `[M, K]`: labelled pixels of the composited mask, those
    of the rendered tile exactly. `refused`: places and backgrounds refused, by reason.
    """

    row: np.ndarray
    objects: list[np.ndarray]
    code: list[np.ndarray]
    scale: list[np.ndarray]
    top: list[np.ndarray]
    left: list[np.ndarray]
    counts: np.ndarray
    refused: dict[str, int]

    def __len__(self) -> int:
        return len(self.row)

    def pasted(self, m: int) -> list[Pasted]:
        """The objects of a composite, as `paste.render` takes them."""
        columns = (self.objects, self.code, self.scale, self.top, self.left)
        return [Pasted(*values) for values in zip(*(c[m].tolist() for c in columns), strict=True)]


def propose(
    catalog: Catalog,
    rows: np.ndarray,
    bank: ObjectBank,
    target: np.ndarray,
    options: CopyPasteOptions,
    seed: int,
    quiet: bool = True,
) -> Composites:
    """About `options.share` composites for each training tile of `rows`; target q `[K]`.

    P are the shares of the training tiles and of the composites so far. A class is drawn in proportion to
    max(0, q/P − 1) among those with whole objects: taking the largest alone would fill tile after tile with
    one class until it draws level with the next, and comes to the same end. An object of it is drawn in
    proportion to 1/(1 + times used or refused). Of 16 backgrounds of its resolution and season, dealt in
    turn so that each tile is offered equally often, the one with the largest gain among the admitted places
    is taken; backgrounds whose bound on the gain is below the best found are not read, and a tile is the
    background of at most 2 · `share` composites. Further objects join it, each drawn in the same way, while
    they add to the gain. Which objects may be pasted at all says `proposal.pastable`.

    Where nothing can be pasted there are no composites, and a warning is logged that says why.
    Raises `CatalogError` where the bank is of other bands or classes.
    """
    if bank.bands != catalog.bands or len(bank.contacts) != catalog.scheme.num_classes:
        raise CatalogError(
            f"the object bank has bands {', '.join(bank.bands)} and {len(bank.contacts)} classes, the catalog "
            f"{', '.join(catalog.bands)} and {catalog.scheme.num_classes}; make the plan again"
        )
    wanted, names = round(options.share * len(rows)), catalog.scheme.names
    members = pastable(bank, options, names)
    if not members:
        sought = ", ".join(names[c] for c in bank.classes) or "any class"
        log.warning("no composites: there is no object of %s to paste in the training tiles", sought)
    elif wanted == 0:
        log.warning("no composites: a share of %g of %d training tiles is none", options.share, len(rows))
    if not members or wanted == 0:
        return _gathered([], len(names), Counter())
    run = Proposal(catalog, np.asarray(rows), bank, members, target, options, seed)
    made = []
    with progress("composites", wanted, quiet) as bar:
        for draft in run.drafts(wanted):
            made.append((draft.row, draft.pasted, draft.counts))
            bar.advance()
    if not made:
        log.warning("no composites: %s", run.why_none())
    return _gathered(made, len(names), run.refused)


def _gathered(made: list[tuple[int, list[Pasted], np.ndarray]], k: int, refused: Counter[str]) -> Composites:
    def column(i: int, kind: type) -> list[np.ndarray]:
        return [np.array([p[i] for p in pasted], kind) for _, pasted, _ in made]

    return Composites(
        np.array([row for row, _, _ in made], np.int64),
        column(0, np.int64),
        column(1, np.int64),
        column(2, np.float32),
        column(3, np.int32),
        column(4, np.int32),
        np.array([counts for _, _, counts in made], np.float64).reshape(-1, k),
        dict((+refused).most_common()),
    )
