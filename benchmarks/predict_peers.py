"""One whole-scene prediction by a peer, in the peer's own environment: what `predict.py` starts for each of them.

    PYTHON benchmarks/predict_peers.py PEER SCENE MODEL WEIGHTS [--keep PROBS.npy]

Each does what its documentation shows for a scene that has to be cut in windows, with its own defaults but for the
windows (512, 128 shared) and the network: the same weights for all, float32. The scene is normalised as
(value - 100) / 50, by the peer's hook where it has one, else by a layer before the network. Prints one JSON line:
seconds, peak memory of the process, and what of it came after the network was loaded.

| peer | reads | holds | blends | writes |
|---|---|---|---|---|
| toolbelt | the whole scene | sums of the whole scene | logits, by a pyramid | nothing |
| geoai (`predict_geotiff`) | windows | float64 sums of the whole scene | probabilities, by a spline | LZW GeoTIFF |
| geoai-semantic (`semantic_inference_on_geotiff`) | windows | float32 sums of the whole scene | probabilities, by a ramp | GeoTIFF |
| terratorch (`tiled_inference`) | the whole scene, as float32 | all windows' answers, and sums | probabilities, by a cosine | nothing |
| raster-vision (`from_predictions`) | windows | float16 sums of the whole scene | probabilities, by plain mean | GeoTIFF |
| raster-vision-crop (the same, `crop_sz=64`) | windows | the same | nothing: windows are cropped to meet | GeoTIFF |
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import peak_mb, resident_mb

WINDOW, OVERLAP_PX, CLASSES, BANDS = 512, 128, 6, 4
STEP = WINDOW - OVERLAP_PX
SHIFT, SCALE = 100.0, 0.02
PACKAGES = {
    "toolbelt": "pytorch-toolbelt",
    "geoai": "geoai-py",
    "geoai-semantic": "geoai-py",
    "terratorch": "terratorch",
    "raster-vision": "rastervision_pytorch_learner",
    "raster-vision-crop": "rastervision_pytorch_learner",
}


def network(model: str, weights: Path, threads: int) -> Any:
    """The benchmark's torch module with the weights that all use: the convolution, or smp's U-Net ResNet-18."""
    import torch

    torch.set_num_threads(threads)
    if model == "conv":
        net = torch.nn.Conv2d(BANDS, CLASSES, 3, padding=1)
    else:
        import segmentation_models_pytorch as smp

        net = smp.Unet("resnet18", encoder_weights=None, in_channels=BANDS, classes=CLASSES)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def around(net: Any, factor: float | None, softmax: bool) -> Any:
    """The network with what a peer has no hook for: pixels that come divided by `factor`, probabilities out."""
    import torch

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if factor is not None:
                x = x.mul(factor * SCALE).sub_(SHIFT * SCALE)
            logits = self.net(x)
            return torch.softmax(logits, 1) if softmax else logits

    return Around().eval()


def toolbelt(scene: Path, net: Any, out: Path, keep: Path | None) -> None:
    """`ImageSlicer` and `TileMerger`, as its README shows; logits are merged."""
    import numpy as np
    import rasterio
    import torch
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    with rasterio.open(scene) as file:
        image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    slicer = ImageSlicer(image.shape, tile_size=WINDOW, tile_step=STEP, weight="pyramid")
    merger = TileMerger(slicer.target_shape, CLASSES, slicer.weight)
    with torch.inference_mode():
        for tile, crop in zip(slicer.split(image), slicer.crops, strict=True):
            x = torch.from_numpy(tile).permute(2, 0, 1)[None].float().sub_(SHIFT).mul_(SCALE)
            merger.integrate_batch(net(x), [crop])
        merged = merger.merge_()
        classes = merged.argmax(0).to(torch.uint8).numpy()
    slicer.crop_to_orignal_size(classes)
    if keep is not None:
        probs = torch.softmax(merged, 0).permute(1, 2, 0).numpy()
        np.save(keep, np.moveaxis(slicer.crop_to_orignal_size(probs), -1, 0))


def geoai(scene: Path, net: Any, out: Path, keep: Path | None) -> None:
    """`predict_geotiff` with its default blending."""
    import numpy as np
    from geoai.inference import predict_geotiff

    given: dict[str, Any] = {
        "tile_size": WINDOW, "overlap": OVERLAP_PX, "num_classes": CLASSES, "device": "cpu", "verbose": False,
        "preprocess_fn": lambda tile: (tile - np.float32(SHIFT)) * np.float32(SCALE),
    }  # fmt: skip
    if keep is None:
        given |= {"output_dtype": "uint8", "output_nodata": 255, "postprocess_fn": _most}
    predict_geotiff(around(net, None, True), str(scene), str(out / "map.tif"), **given)
    if keep is not None:
        np.save(keep, _bands(out / "map.tif", -9999))


def _most(probs: Any) -> Any:
    return probs.argmax(0).astype("uint8")


def geoai_semantic(scene: Path, net: Any, out: Path, keep: Path | None) -> None:
    """`semantic_inference_on_geotiff`, which divides by 255 and has no hook for another normalisation."""
    import numpy as np
    from geoai.train import semantic_inference_on_geotiff

    probs = out / "probs.tif"
    semantic_inference_on_geotiff(
        around(net, 255.0, False), str(scene), str(out / "map.tif"), window_size=WINDOW, overlap=OVERLAP_PX,
        num_channels=BANDS, num_classes=CLASSES, device="cpu", quiet=True,
        probability_path=None if keep is None else str(probs),
    )  # fmt: skip
    if keep is not None:
        np.save(keep, _bands(probs, None))


def terratorch(scene: Path, net: Any, out: Path, keep: Path | None) -> None:
    """`tiled_inference`, of a tensor: reading and writing are the user's."""
    import numpy as np
    import rasterio
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    with rasterio.open(scene) as file:
        image = torch.from_numpy(file.read()).float()[None].sub_(SHIFT).mul_(SCALE)
    probs = tiled_inference(around(net, None, True), image, crop=WINDOW, stride=STEP)[0]
    probs.argmax(0).to(torch.uint8).numpy()
    if keep is not None:
        np.save(keep, probs.numpy())


def raster_vision(scene: Path, net: Any, out: Path, keep: Path | None, crop: int | None = None) -> None:
    """Sliding windows, `Learner.predict_dataset` and smooth labels, as its tutorial of prediction shows."""
    import numpy as np
    from rastervision.core.data import ClassConfig, SemanticSegmentationLabels
    from rastervision.core.utils import calculate_required_padding
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
        SemanticSegmentationSlidingWindowGeoDataset,
        SolverConfig,
    )

    classes = ClassConfig(names=[f"class {k}" for k in range(CLASSES)], null_class="class 0")
    config = SemanticSegmentationLearnerConfig(
        data=SemanticSegmentationGeoDataConfig(
            class_config=classes, img_sz=WINDOW, num_workers=0, img_channels=BANDS
        ),
        solver=SolverConfig(batch_sz=4),
    )
    sizes: dict[str, Any] = {
        "size": WINDOW, "stride": STEP, "image_raster_source_kw": {"channel_order": list(range(BANDS))}
    }  # fmt: skip
    dataset = SemanticSegmentationSlidingWindowGeoDataset.from_uris(image_uri=str(scene), **sizes)
    if crop is not None:
        padding = calculate_required_padding(
            dataset.scene.extent.size, (WINDOW, WINDOW), (STEP, STEP), pad_direction="both", crop_sz=crop
        )
        sizes |= {"padding": padding, "pad_direction": "both"}
        dataset = SemanticSegmentationSlidingWindowGeoDataset.from_uris(image_uri=str(scene), **sizes)
    learner = SemanticSegmentationLearner(config, model=around(net, 255.0, False), training=False)
    answers = learner.predict_dataset(dataset, raw_out=True, numpy_out=True, progress_bar=False)
    extent = dataset.scene.extent
    labels = SemanticSegmentationLabels.from_predictions(
        dataset.windows, answers, extent=extent, num_classes=CLASSES, smooth=True, crop_sz=crop
    )
    labels.save(
        str(out / "labels"), crs_transformer=dataset.scene.raster_source.crs_transformer, class_config=classes,
        discrete_output=True, smooth_output=False,
    )  # fmt: skip
    if keep is not None:
        np.save(keep, labels.get_score_arr(extent).astype(np.float32))


def raster_vision_crop(scene: Path, net: Any, out: Path, keep: Path | None) -> None:
    """The same, where windows lose the half of what they share."""
    raster_vision(scene, net, out, keep, crop=OVERLAP_PX // 2)


def _bands(path: Path, missing: float | None) -> Any:
    """All bands of a raster, NaN where it gives no answer."""
    import numpy as np
    import rasterio

    with rasterio.open(path) as file:
        out = file.read().astype(np.float32)
    return out if missing is None else np.where(out == missing, np.float32(np.nan), out)


PEERS: dict[str, Callable[[Path, Any, Path, Path | None], None]] = {
    "toolbelt": toolbelt,
    "geoai": geoai,
    "geoai-semantic": geoai_semantic,
    "terratorch": terratorch,
    "raster-vision": raster_vision,
    "raster-vision-crop": raster_vision_crop,
}


def _imported(peer: str) -> None:
    """Load the peer's library, which is not part of what is timed."""
    import importlib

    names = {
        "toolbelt": "pytorch_toolbelt.inference.tiles",
        "geoai": "geoai.inference",
        "geoai-semantic": "geoai.train",
        "terratorch": "terratorch.tasks.tiled_inference",
    }
    importlib.import_module(names.get(peer, "rastervision.pytorch_learner"))
    if peer == "geoai":
        importlib.import_module("geoai.utils")  # which it would load when it is first asked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("scene", type=Path)
    parser.add_argument("model", choices=["conv", "unet"])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="write the probabilities here, instead of classes")
    args = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    _imported(args.peer)
    net = network(args.model, args.weights, args.threads)
    loaded = resident_mb()
    with tempfile.TemporaryDirectory(dir=args.scene.parent) as folder:
        started = time.perf_counter()
        PEERS[args.peer](args.scene, net, Path(folder), args.keep)
        seconds = time.perf_counter() - started
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "above_model_mb": peak - loaded}))


if __name__ == "__main__":
    main()
