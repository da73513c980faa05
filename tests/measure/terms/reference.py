"""Every term once more, from its formula, in float64 NumPy, pixel by pixel or class by class."""

from __future__ import annotations

import numpy as np
import torch

from raremap.labels import IGNORE
from raremap.measure import terms as t

MAPS = ("distance", "edge", "center")


def batch(seed=0, k=4, ignored=0.2, size=(2, 9, 7), dtype=torch.float32):
    """Logits, a mask with ignored pixels in which every class occurs, and maps of any numbers."""
    g = torch.Generator().manual_seed(seed)
    b, h, w = size
    logits = (1.5 * torch.randn(b, k, h, w, generator=g)).to(dtype)
    mask = torch.randint(0, k, (b, h, w), generator=g)
    mask.view(-1)[:k] = torch.arange(k)
    drop = torch.rand(mask.shape, generator=g) < ignored
    drop.view(-1)[:k] = False
    mask[drop] = IGNORE
    maps = {
        "distance": torch.randn(b, k, h, w, generator=g),
        "edge": 9 * torch.rand(b, h, w, generator=g),
        "center": torch.rand(b, h, w, generator=g),
    }
    return logits, mask, maps


class Pixels:
    """Labelled pixels of a batch in a row: probabilities `p` `[P, K]`, truth `one` `[P, K]`, class `y`."""

    def __init__(self, logits, mask, maps=None):
        z = logits.detach().double().numpy().transpose(0, 2, 3, 1)
        y = mask.numpy()
        kept = y != IGNORE
        self.z, self.y, self.k = z[kept], y[kept], z.shape[-1]
        e = np.exp(self.z - self.z.max(1, keepdims=True))
        self.p = e / e.sum(1, keepdims=True)
        self.one = np.eye(self.k)[self.y]
        self.own = self.p[np.arange(len(self.y)), self.y]
        self.n = self.one.sum(0)
        for name, m in (maps or {}).items():
            m = m.double().numpy()
            setattr(self, name, (m.transpose(0, 2, 3, 1) if m.ndim == 4 else m)[kept])

    def tversky(self, c, alpha, beta):
        """One class's index, from the definition."""
        p, one = self.p[:, c], self.one[:, c]
        tp, fn, fp = (p * one).sum(), ((1 - p) * one).sum(), (p * (1 - one)).sum()
        return tp / (tp + alpha * fn + beta * fp)

    def mean_of_present(self, loss):
        return np.mean([loss(c) for c in range(self.k) if self.n[c]])


def seesaw(x):
    out = []
    for z, p, y in zip(x.z, x.p, x.y, strict=True):
        s = np.ones(x.k)
        for j in range(x.k):
            if j != y:
                ratio = max(1 / 100, x.n[j] / x.n[y])
                s[j] = min(1, ratio) ** 0.8 * max(1, p[j] / max(p[y], 0.01)) ** 2
        out.append(-np.log(np.exp(z[y]) / (s * np.exp(z)).sum()))
    return np.mean(out)


def recall(x):
    right = x.z.argmax(1) == x.y
    missed = np.array([1 - right[x.y == c].mean() if x.n[c] else 0 for c in range(x.k)])
    return np.mean(-np.log(x.own) * missed[x.y])


def lovasz(x):
    def by_class(c):
        errors = np.abs(x.one[:, c] - x.p[:, c])
        total, wrong = 0.0, np.zeros(len(errors), bool)
        truth = x.one[:, c] > 0

        def jaccard_loss(wrong):
            # Of the prediction that is wrong just there: hits over union.
            found = truth ^ wrong
            return 1 - (found & truth).sum() / max((found | truth).sum(), 1)

        for i in np.argsort(-errors, kind="stable"):
            before = jaccard_loss(wrong)
            wrong[i] = True
            total += errors[i] * (jaccard_loss(wrong) - before)
        return total

    return x.mean_of_present(by_class)


def generalised_dice(x):
    c = np.flatnonzero(x.n)
    w = 1 / x.n[c] ** 2
    hits = (x.p * x.one).sum(0)[c]
    return 1 - 2 * (w * hits).sum() / (w * (x.p.sum(0)[c] + x.n[c])).sum()


def unified_focal(x, delta=0.6, gamma=0.5):
    back, front = 1 - delta, delta
    costs = np.where(x.y == 0, back * (1 - x.own) ** gamma, front) * -np.log(x.own)
    regions = x.mean_of_present(
        lambda c: (1 - x.tversky(c, delta, 1 - delta)) ** (1 if c == 0 else 1 - gamma)
    )
    return 0.5 * regions + 0.5 * costs.mean()


def weighted(x, w):
    return (w * -np.log(x.own)).sum() / w.sum()


def cosh(v):
    return np.log(np.cosh(v))


# The term, and its value on labelled pixels.
TERMS = {
    "ce": (t.CrossEntropy(), lambda x: np.mean(-np.log(x.own))),
    "focal": (t.Focal(), lambda x: np.mean(-((1 - x.own) ** 2) * np.log(x.own))),
    "focal .5": (t.Focal(gamma=0.5), lambda x: np.mean(-((1 - x.own) ** 0.5) * np.log(x.own))),
    "poly": (t.Poly(), lambda x: np.mean(-np.log(x.own) + 1 - x.own)),
    "log_cosh": (t.LogCosh(), lambda x: np.mean(cosh(x.p - x.one).sum(1))),
    "boundary_ce": (t.BoundaryCE(), lambda x: weighted(x, 1 + 10 * np.exp(-(x.edge**2) / 50))),
    "center_ce": (t.CenterCE(w=3), lambda x: weighted(x, 1 + 3 * x.center)),
    "seesaw": (t.Seesaw(), seesaw),
    "recall": (t.Recall(), recall),
    "dice": (t.Dice(), lambda x: x.mean_of_present(lambda c: 1 - x.tversky(c, 0.5, 0.5))),
    "generalised_dice": (t.GeneralisedDice(), generalised_dice),
    "iou": (t.IoU(), lambda x: x.mean_of_present(lambda c: 1 - x.tversky(c, 1, 1))),
    "log iou": (t.IoU(log=True), lambda x: x.mean_of_present(lambda c: -np.log(x.tversky(c, 1, 1)))),
    "tversky": (t.Tversky(), lambda x: x.mean_of_present(lambda c: 1 - x.tversky(c, 0.7, 0.3))),
    "focal_tversky": (
        t.FocalTversky(),
        lambda x: x.mean_of_present(lambda c: (1 - x.tversky(c, 0.7, 0.3)) ** 0.75),
    ),
    "log_cosh_dice": (
        t.LogCoshDice(),
        lambda x: cosh(x.mean_of_present(lambda c: 1 - x.tversky(c, 0.5, 0.5))),
    ),
    "unified_focal": (t.UnifiedFocal(), unified_focal),
    "lovasz": (t.Lovasz(), lovasz),
    "boundary": (t.Boundary(), lambda x: np.mean(x.p * x.distance)),
}
