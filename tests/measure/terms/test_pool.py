"""Terms of a batch in two shares, in two processes, beside those of the whole batch in one."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

from raremap.labels import IGNORE
from raremap.measure.losses import TERM_KINDS, Sum, written_out
from raremap.models.outputs import image_loss

POOLED = tuple(k for k in TERM_KINDS if k != "lovasz")
SHARES = [0.6, 0.3, 0.1]


def batch():
    """Logits, mask, maps and worth; the second half of the batch holds hardly any label, and no class 2."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 8, 8, generator=g)
    mask = torch.randint(0, 3, (4, 8, 8), generator=g)
    mask[2:] = IGNORE
    mask[2:, :2] = torch.randint(0, 2, (2, 2, 8), generator=g)
    maps = {
        "distance": torch.randn(4, 3, 8, 8, generator=g),
        "edge": torch.rand(4, 8, 8, generator=g) * 9,
        "center": torch.rand(4, 8, 8, generator=g),
    }
    worth = torch.rand(4, 8, 8, generator=g)
    return logits, mask, maps, worth, torch.randn(4, 3, generator=g)


def objective(kind):
    import numpy as np

    # By `Sum` as an experiment has it, with a prior and class weights, so that these go through it as well.
    return Sum(**written_out({kind: 1.0})).build(
        3, shares=np.array(SHARES), natural=np.array([0.8, 0.15, 0.05])
    )


def values(part, pool=None):
    """Value and gradient by the logits of every term, plain and with worth, and of the head for images."""
    logits, mask, maps, worth, image = (
        {k: v[part] for k, v in t.items()} if isinstance(t, dict) else t[part] for t in batch()
    )
    out = {}
    for kind in POOLED:
        for name, more in (("plain", {}), ("worth", {"worth": worth})):
            loss = objective(kind)
            loss.pool = pool
            x = logits.clone().requires_grad_()
            value = loss(x, mask, torch.tensor(SHARES), **maps, **more)[kind]
            value.backward()
            out[kind, name] = value.detach(), x.grad
    x = image.clone().requires_grad_()
    value = image_loss(x, mask, pool)
    value.backward()
    out["image", "plain"] = value.detach(), x.grad
    return out


def share(rank: int, folder: str) -> None:
    import torch.distributed as dist

    from raremap.measure.terms.pool import pooled

    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(values(slice(rank, None, 2), pooled), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_shares_have_the_terms_and_gradients_of_the_whole(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=share, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    whole = values(slice(None))
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for key, (value, grad) in whole.items():
        for rank in range(2):
            found, of_share = shares[rank][key]
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6, msg=str(key))
            # The mean over the processes of their gradients is the step: each has half of twice its part.
            torch.testing.assert_close(of_share / 2, grad[rank::2], rtol=1e-4, atol=1e-7, msg=str(key))
