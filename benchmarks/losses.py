"""What each term of the loss costs, forward and backward, beside torch's cross-entropy and the peers' terms.

    python benchmarks/losses.py [--quick] [--rounds 9] [--threads 2] [--batch 4] [--classes 6] [--size 512]

All contenders take turns in one process on the same logits and mask (a tenth of it ignored), so that other work
on the machine meets all of them. Times are medians over rounds, ratios medians over the rounds' own ratios, by
the clock and by processor time; on a busy machine run it with one thread and read the latter. Memory is the peak of the process above what it held before, logits included, in a process of its own where
freed blocks go back at once. Ends with what the distance maps cost a worker, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

from machine import fresh, machine, peak_mb, resident_mb
from raremap.batches.distance import BoundaryMaps
from raremap.labels import IGNORE
from raremap.measure import terms as t

Loss = Callable[[Tensor], Tensor]
# A peer's value, and ours that must be the same.
SAME = {"smp Lovász": "Lovász", "smp Dice": "Dice", "smp Tversky": "Tversky", "torch CE": "CE"}
MOST = {"focal": 1.6, "Dice": 2.5, "IoU": 2.5, "Tversky": 2.5, "focal + Dice + boundary": 4.0}


def contenders(batch: int, k: int, size: int) -> tuple[Tensor, dict[str, Loss]]:
    """Logits, and what is made of them."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, k, size, size, generator=g)
    mask = torch.randint(0, k, (batch, size, size), generator=g)
    mask[torch.rand(mask.shape, generator=g) < 0.1] = IGNORE
    maps = {
        "distance": torch.rand(logits.shape, generator=g).half() * 2 - 1,
        "edge": (torch.rand(mask.shape, generator=g) * 30).half(),
        "center": torch.rand(mask.shape, generator=g).half(),
    }
    ours = {
        "CE": t.CrossEntropy(),
        "focal": t.Focal(),
        "poly": t.Poly(),
        "log-cosh": t.LogCosh(),
        "boundary CE": t.BoundaryCE(),
        "center CE": t.CenterCE(),
        "seesaw": t.Seesaw(),
        "recall": t.Recall(),
        "Dice": t.Dice(),
        "generalised Dice": t.GeneralisedDice(),
        "IoU": t.IoU(),
        "Tversky": t.Tversky(),
        "focal Tversky": t.FocalTversky(),
        "unified focal": t.UnifiedFocal(),
        "Lovász": t.Lovasz(),
        "boundary": t.Boundary(),
    }
    peers = {
        "smp focal (sigmoid)": smp.losses.FocalLoss("multiclass", ignore_index=IGNORE, alpha=None),
        "smp Dice": smp.losses.DiceLoss("multiclass", ignore_index=IGNORE),
        "smp Tversky": smp.losses.TverskyLoss("multiclass", ignore_index=IGNORE, alpha=0.3, beta=0.7),
        "smp Lovász": smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE),
    }

    def three(z: Tensor) -> Tensor:
        view = t.View(z, mask, distance=maps["distance"], shared=True)
        return t.Focal().of(view) + t.Dice().of(view) + 0.01 * t.Boundary().of(view)

    losses: dict[str, Loss] = {"torch CE": lambda z: F.cross_entropy(z, mask, ignore_index=IGNORE)}
    losses |= {name: lambda z, f=term: f(z, mask, **maps) for name, term in ours.items()}
    losses["focal + Dice + boundary"] = three
    losses |= {name: lambda z, f=peer: f(z, mask) for name, peer in peers.items()}
    return logits, losses


def step(loss: Loss, logits: Tensor) -> tuple[float, float, float]:
    """Milliseconds of forward and backward, by the clock and of the processor, and the value."""
    z = logits.clone().requires_grad_()
    clock, processor = time.perf_counter(), time.process_time()
    value = loss(z)
    value.backward()
    return 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processor), value.item()


def peaks(logits: Tensor, losses: dict[str, Loss]) -> dict[str, float]:
    """Peak memory of a step above the process's own, MiB."""
    out = {}
    for name, loss in losses.items():
        step(loss, logits)  # what is loaded or compiled on the first call is not the term's
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = resident_mb()
        step(loss, logits)
        out[name] = round(peak_mb() - before)
    return out


def maps_ms(k: int, size: int, rounds: int) -> dict[str, float]:
    """What each map of one crop costs a worker, in milliseconds."""
    import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    fields = [cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), size / 16) for _ in range(k)]
    mask = np.argmax(fields, 0).astype(np.int64)
    mask[rng.random(mask.shape) < 0.1] = IGNORE
    out = {}
    for name in ("distance", "edge", "center"):
        maps, times = BoundaryMaps(k, (name,)), []
        for _ in range(rounds):
            started = time.process_time()
            maps(mask)
            times.append(1e3 * (time.process_time() - started))
        out[name] = round(statistics.median(times), 2)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of a quarter of the pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rounds, size = (3, args.size // 2) if args.quick else (args.rounds, args.size)
    torch.set_num_threads(args.threads)
    logits, losses = contenders(args.batch, args.classes, size)
    if args.memory_only:
        print(json.dumps(peaks(logits, losses)))
        return

    values = {name: step(loss, logits)[-1] for name, loss in losses.items()}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in losses}
    for _ in range(rounds):
        for name, loss in losses.items():
            times[name].append(step(loss, logits)[:2])
    for peer, name in SAME.items():
        assert abs(values[peer] - values[name]) < 1e-4 * values[peer], (peer, values[peer], values[name])
    # A fixed threshold keeps freed blocks out of the heap, where they would hide what the next one needs.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    memory = fresh(__file__, *sys.argv[1:], "--memory-only", environment=environment)

    def median(name: str, clock: int) -> float:
        return round(statistics.median(t[clock] for t in times[name]), 1)

    def ratio(name: str, to: str, clock: int) -> float:
        pairs = zip(times[name], times[to], strict=True)
        return round(statistics.median(a[clock] / b[clock] for a, b in pairs), 2)

    kinds = {"clock": 0, "processor": 1}
    figures = {
        **machine("raremap", "torch", "numpy", "segmentation-models-pytorch"),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "shape": list(logits.shape),
        "ms": {kind: {name: median(name, i) for name in losses} for kind, i in kinds.items()},
        "to_torch_ce": {
            kind: {name: ratio(name, "torch CE", i) for name in losses} for kind, i in kinds.items()
        },
        "lovasz_speedup": {kind: ratio("smp Lovász", "Lovász", i) for kind, i in kinds.items()},
        "lovasz_values": [values["smp Lovász"], values["Lovász"]],
        "peak_mib": memory,
        "maps_ms": {str(n): maps_ms(args.classes, n, rounds) for n in (128, 512)},
        "quick": args.quick,
    }
    print(
        f"{list(logits.shape)}, forward and backward, {figures['threads']} threads, {rounds} rounds, "
        f"load {figures['load']:.1f}"
    )
    print(f"{'':<26}{'by the clock':>20}{'by the processor':>20}{'peak':>10}")
    for name in losses:
        row = "".join(f"{median(name, i):>11} ms{ratio(name, 'torch CE', i):>6}" for i in kinds.values())
        most = f"   at most {MOST[name]}" if name in MOST else ""
        print(f"{name:<26}{row}{memory[name]:>6} MiB{most}")
    faster = figures["lovasz_speedup"]
    print(
        f"Lovász against smp's: {faster['clock']} times as fast by the clock, {faster['processor']} by the processor; 4 wanted"
    )
    for n, cost in figures["maps_ms"].items():
        print(f"maps of a crop of {n}², one core: " + ", ".join(f"{k} {v} ms" for k, v in cost.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
