"""What the outer loop costs, how exact its hypergradient is, and what it learns beside a grid search.

    python benchmarks/outer.py [--quick] [--rounds 7] [--batch 8] [--monitor 8] [--crop 128] [--encoder resnet18]

Cost: in each round a training step (U-Net of segmentation-models-pytorch, CE + Dice, AdamW, float32) and an
update, on `--monitor` crops (as many as the batch has, as by default in training), take turns; the share is the median of update over
`every` steps. In bf16 too where it is native. By processor time as well: on a busy machine read that.
Exactness: cosine with double backward through the same look-ahead step, on small crops, by length of the step ±εu.
Learning: a small long-tailed problem; balanced accuracy and macro-F1 of class weights of a grid, and of the loop
that starts from plain weights. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from machine import machine
from raremap.learn.hypergradient import hypergradient, look_ahead
from raremap.learn.options import OuterOptions
from raremap.learn.outer import Outer
from raremap.measure import terms
from raremap.measure.terms import View
from raremap.models.forward import best_device, has_bf16

EVERY, BANDS, CLASSES = 20, 4, 6
Batch = dict[str, Tensor]


def inner(logits: Tensor, batch: Batch, classes: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy with class weights, and Dice."""
    view = View(logits, batch["mask"])
    found = [terms.CrossEntropy().of(view, classes), terms.Dice().of(view)]
    return (weights * torch.stack(found)[: len(weights)]).sum()


def crops(seed: int, size: int, side: int, device: torch.device) -> Batch:
    """Noise whose smoothed first band says the class."""
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(size, BANDS, side, side, generator=g)
    mask = (F.avg_pool2d(image[:, :1], 3, 1, 1)[:, 0] * 5 + 2).long().clamp(0, CLASSES - 1)
    return {"image": image.to(device).contiguous(memory_format=torch.channels_last), "mask": mask.to(device)}


def unet(encoder: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    network = smp.Unet(encoder, encoder_weights=None, in_channels=BANDS, classes=CLASSES)
    return network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


class Training:
    """A plain loop and its outer loop."""

    def __init__(self, network: nn.Module, outer: OuterOptions, monitor: Any, k: int, **more: Any) -> None:
        self.network, self.bf16 = network, more.get("bf16", False)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=more.pop("lr", 1e-3))
        self.outer = Outer(outer, network, self.optimizer, inner, monitor, k, **more)

    def step(self, b: Batch, weight: Tensor | None = None) -> None:
        weight = self.outer.class_weights.to(b["mask"].device) if weight is None else weight
        with torch.autocast(b["image"].device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(b["image"])
        loss = inner(logits, b, weight, self.outer.term_weights.to(logits.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def cost(args: argparse.Namespace, device: torch.device, bf16: bool) -> dict[str, float]:
    """Seconds of a step and of an update, and the share of training that an update every 20 steps adds."""
    parts = [min(args.batch, args.monitor - i) for i in range(0, args.monitor, args.batch)]
    held = [[crops(10**6 + 2 * j + i, n, args.crop, device) for j, n in enumerate(parts)] for i in range(2)]
    options = OuterOptions(every=1, warmup=0.0)
    training = Training(
        unet(args.encoder, device), options, lambda update: held[update % 2], CLASSES,
        steps=10**6, terms=(1.0, 1.0), bf16=bf16,
    )  # fmt: skip
    batch, took = crops(0, args.batch, args.crop, device), []
    for i in range(args.rounds + 1):
        marks = []
        for act in (
            lambda: None,
            lambda: training.step(batch),
            lambda n=i: training.outer.step(n + 1, batch),
        ):
            act()
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), time.process_time()))
        if i:
            took.append([[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(marks)])
    (step, step_cpu), (update, update_cpu) = np.median(np.array(took), axis=0)
    shares = [(u[0] / s[0], u[1] / s[1]) for s, u in took]
    clock, cpu = (100 * statistics.median(x) / EVERY for x in zip(*shares, strict=True))
    return {
        "step_ms": round(1e3 * step, 1),
        "update_ms": round(1e3 * update, 1),
        "step_cpu_ms": round(1e3 * step_cpu, 1),
        "update_cpu_ms": round(1e3 * update_cpu, 1),
        "percent": round(clock, 1),
        "percent_cpu": round(cpu, 1),
    }


def exactness(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Cosine of the hypergradient with that of double backward."""
    training = Training(unet(args.encoder, device), OuterOptions(), None, CLASSES, steps=1, terms=(1.0, 1.0))
    for i in range(args.trained):
        training.step(crops(i, 4, 64, device))
    network, ahead = training.network, look_ahead(training.optimizer)
    b, other = crops(10**5, 4, 64, device), crops(10**6, 4, 64, device)
    h = torch.linspace(-0.5, 0.5, CLASSES + 2, device=device)

    def weighed(logits: Tensor, h: Tensor) -> Tensor:
        return inner(logits, b, h[:CLASSES].exp(), h[CLASSES:].exp())

    def balanced(logits: Tensor) -> Tensor:
        weight = 1 / torch.bincount(other["mask"].flatten(), minlength=CLASSES).float().clamp(min=1)
        return F.cross_entropy(logits, other["mask"], weight)

    twin, free = copy.deepcopy(network), h.clone().requires_grad_()
    parameters = dict(twin.named_parameters())
    grads = torch.autograd.grad(weighed(twin(b["image"]), free), list(parameters.values()), create_graph=True)
    stepped = {
        name: p.detach() - move - rate * (g - g.detach())
        for (name, p), rate, move, g in zip(parameters.items(), ahead.rates, ahead.moves, grads, strict=True)
    }
    wanted = torch.autograd.grad(balanced(functional_call(twin, stepped, (other["image"],))), free)[0]
    found = {}
    for epsilon in (0.1, 0.01, 0.003, 0.001, 0.0003):
        ours = hypergradient(
            network, ahead, lambda: (balanced(network(other["image"])) for _ in range(1)),
            lambda: network(b["image"]), weighed, h, epsilon,
        )  # fmt: skip
        found[str(epsilon)] = round(float(F.cosine_similarity(ours, wanted, dim=0)), 6)
    return found


SHARES = torch.tensor([0.80, 0.14, 0.06])
CENTRES = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.4, 0.0], [0.7, 1.6, 0.4]])


def long_tailed(seed: int, size: int = 4, side: int = 16) -> Batch:
    """Pixels of three overlapping classes."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.multinomial(SHARES, size * side * side, True, generator=g).view(size, side, side)
    return {
        "image": CENTRES[mask].movedim(-1, 1) + torch.randn(size, 3, side, side, generator=g),
        "mask": mask,
    }


def scores(network: nn.Module, held: Batch) -> tuple[float, float]:
    """Balanced accuracy and macro-F1, in points."""
    with torch.no_grad():
        called = network.eval()(held["image"]).argmax(1)
    matrix = torch.bincount((held["mask"] * 3 + called).flatten(), minlength=9).view(3, 3).double()
    hits, truth, claimed = matrix.diag(), matrix.sum(1), matrix.sum(0)
    return 100 * float((hits / truth).mean()), 100 * float((2 * hits / (truth + claimed)).mean())


def learning(args: argparse.Namespace) -> dict[str, Any]:
    """Scores of the loop beside those of fixed class weights, with a small network of 1×1 convolutions."""
    pool = [long_tailed(i) for i in range(60)]
    monitor = [[long_tailed(10**5 + i)] for i in range(20)]
    held, steps = long_tailed(10**6, 128), args.steps

    def train(weight: Tensor | None, seed: int = 0) -> tuple[tuple[float, float], Tensor]:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 3, 1))
        # As many updates as a training of 2000 steps has with every: 20.
        options = OuterOptions(every=max(1, round(steps * 0.7 / 70)))
        training = Training(network, options, lambda update: monitor[update % 20], 3, steps=steps, lr=1e-2)
        for i in range(1, steps + 1):
            training.step(pool[i % 60], weight)
            if weight is None:
                training.outer.step(i, pool[i % 60])
        return scores(network, held), training.outer.class_weights

    grid = {(1, *w): train(torch.tensor([1.0, *map(float, w)]))[0] for w in args.grid}
    best = [max(grid, key=lambda w, i=i: grid[w][i]) for i in range(2)]
    loops = [train(None, seed) for seed in range(args.seeds)]
    ours = np.mean([found for found, _ in loops], axis=0)
    return {
        "plain": [round(v, 1) for v in train(torch.ones(3))[0]],
        "grid_best": [round(grid[w][i], 1) for i, w in enumerate(best)],
        "grid_weights": best,
        "grid_best_both": [round(v, 1) for v in grid[best[0]]],
        "loop": [round(float(v), 1) for v in ours],
        "loop_weights": (loops[0][1] / loops[0][1][0]).numpy().round(1).tolist(),
        "short_of_grid": round(grid[best[0]][0] - float(ours[0]), 2),
        "trainings_in_grid": len(grid),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, a small grid; under a minute")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--monitor", type=int, help="monitor crops an update (default: the batch)")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--encoder", default="resnet18")
    args = parser.parse_args()
    args.grid = list(itertools.product([2.0, 6.0, 12.0, 20.0], [4.0, 12.0, 20.0, 40.0]))
    args.steps, args.seeds, args.trained = 400, 3, 15
    if args.quick:
        args.rounds, args.batch, args.crop, args.steps, args.seeds, args.trained = 3, 4, 64, 200, 1, 5
        args.grid = [(2.0, 4.0), (6.0, 12.0), (12.0, 20.0)]
    args.monitor = args.monitor or args.batch
    device = best_device()
    kinds = {"float32": False} | ({"bf16": True} if has_bf16(device) else {})
    costs = {name: cost(args, device, bf16) for name, bf16 in kinds.items()}
    print(
        f"an update every {EVERY} steps, U-Net {args.encoder}, {args.batch} crops of {args.crop}², {args.monitor} of the monitor, {device}"
    )
    for (name, c), most in zip(costs.items(), (15, 25), strict=False):
        print(
            f"  {name:<9} step {c['step_ms']:>7.1f} ms   update {c['update_ms']:>7.1f} ms   "
            f"+{c['percent']:.1f} % (processor time +{c['percent_cpu']:.1f} %)   mark {most} %"
        )
    cosines = exactness(args, device)
    print("cosine with double backward, by ε: " + "   ".join(f"{e}: {c:.5f}" for e, c in cosines.items()))
    learned = learning(args)
    print(f"long-tailed problem               {'balanced accuracy':>18}{'macro-F1':>10}   class weights")
    for name, weights in (
        ("plain", "1, 1, 1"),
        ("grid_best_both", learned["grid_weights"][0]),
        ("loop", learned["loop_weights"]),
    ):
        print(f"  {name:<32}{learned[name][0]:>18.1f}{learned[name][1]:>10.1f}   {weights}")
    figures = {
        **machine("raremap", "torch", "segmentation-models-pytorch"),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cost": costs,
        "cosine": cosines,
        "learned": learned,
        "quick": args.quick,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
