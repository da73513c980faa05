"""How fast the networks train and predict, and the U-Nets beside segmentation-models-pytorch's.

    python benchmarks/models.py [--quick] [--seconds 10] [--batch 8] [--crop 128] [--device auto]

First every named network: weights, multiply-adds, crops a second in training (forward, cross-entropy,
backward, AdamW) and in prediction. Then the plain and the residual U-Net beside smp's U-Net on VGG-13 with batch norm, which
is built as they are (two convolutions and norms a level, from full resolution on), and on ResNet-18, whose stem halves the
image at once; our width is the even one whose multiply-adds for a crop are nearest. The three take turns step by step, and
the ratio is of multiply-adds a second, of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from machine import machine
from raremap.models.forward import best_device
from raremap.models.options import NAMED, Smp, UNet
from raremap.workflows.models import _prediction, _training, list_models, multiply_adds

BANDS, CLASSES = 13, 2
PEERS = ("vgg13_bn", "resnet18")


def equal_work(encoder: str, crop: int) -> dict[str, torch.nn.Module]:
    """smp's U-Net, and ours at the width whose multiply-adds are nearest to it."""
    peer = Smp(encoder=encoder).build(BANDS, CLASSES)
    goal = multiply_adds(peer, BANDS, crop)
    nets = {f"smp unet {encoder}": peer}
    for block in ("plain", "residual"):
        options = [UNet(kind="unet", block=block, width=w) for w in range(16, 56, 2)]
        with torch.device("meta"):  # shapes are enough to count
            work = {o: multiply_adds(o.build(BANDS, CLASSES), BANDS, crop) for o in options}
        nearest = min(work, key=lambda o: abs(work[o] - goal))
        nets[f"unet {block} {nearest.width}"] = nearest.build(BANDS, CLASSES)
    return nets


def in_turns(
    nets: dict[str, torch.nn.Module], batch: int, crop: int, rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median seconds of a step of each network, all of them one after another, `rounds` times."""
    image = torch.randn(batch, BANDS, crop, crop, device=device).contiguous(memory_format=torch.channels_last)
    mask = torch.randint(0, CLASSES, (batch, crop, crop), device=device)
    found: dict[str, dict[str, float]] = {name: {} for name in nets}
    for what in ("train", "predict"):
        steps = {}
        for name, net in nets.items():
            net = net.to(device).to(memory_format=torch.channels_last)
            steps[name] = _training(net, image, mask) if what == "train" else _prediction(net, image)
        times: dict[str, list[float]] = {name: [] for name in nets}
        for turn in range(rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first one warms up
                    times[name].append(time.perf_counter() - started)
        for name in nets:
            found[name][what] = batch / statistics.median(times[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small networks and crops, under a minute")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each network and task")
    parser.add_argument("--rounds", type=int, default=15, help="turns of the comparison")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = best_device(args.device)
    crop, batch = (64, 2) if args.quick else (args.crop, args.batch)
    names = ["rau_net_small", "squeeze_unet", "vnet", "unet_resnet18"] if args.quick else list(NAMED)
    seconds = 0.0 if args.quick else args.seconds
    table = list_models(names, BANDS, CLASSES, crop, batch, seconds, device=str(device))
    print(table)

    print(f"\n{'equal work':<24}{'multiply-adds':>15}{'train':>12}{'predict':>12}{'of smp':>16}")
    equal = {}
    for encoder in PEERS[1:] if args.quick else PEERS:
        nets = equal_work(encoder, crop)
        speed = in_turns(nets, batch, crop, 2 if args.quick else args.rounds, device)
        work = {name: multiply_adds(net, BANDS, crop) / 1e9 for name, net in nets.items()}
        peer = f"smp unet {encoder}"
        for name, found in speed.items():
            ratio = {k: round(found[k] * work[name] / (speed[peer][k] * work[peer]), 3) for k in found}
            equal[name] = {"multiply_adds_g": round(work[name], 3), **found, "of_smp": ratio}
            beside = f"{ratio['train']:.2f} / {ratio['predict']:.2f}"
            print(
                f"{name:<24}{work[name]:>13.2f} G{found['train']:>10.3g}/s{found['predict']:>10.3g}/s{beside:>16}"
            )
    figures = {
        **machine("raremap", "torch", "segmentation-models-pytorch", "timm"),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "quick": args.quick,
        "models": table.to_dict(),
        "equal_work": equal,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
