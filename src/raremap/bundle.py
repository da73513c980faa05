"""`Bundle`: a trained model with everything needed to use it, as a folder without a pickle.

    model.safetensors   the weights
    model.json          a STAC item with the MLM extension: bands, normalisation, classes, prior, decision
    README.md           the model card; free to edit

`model.json` holds a checksum of the weights and of itself, so that a missing or altered file is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter

from raremap.errors import BundleError, MissingExtra
from raremap.files import (
    ENSEMBLE,
    ITEM,
    check_item,
    digest_of,
    is_table_bundle,
    read_item,
    sha256_of,
    written_folder,
)
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision
from raremap.models.options import ModelOptions, model_options
from raremap.scene.features.channels import with_features
from raremap.scene.features.options import Feature
from raremap.scene.normalize import Normalization

if TYPE_CHECKING:
    from torch import nn

    from raremap.ensembles import Ensemble
    from raremap.maps.stream import Network
    from raremap.models.forward import TorchNetwork
    from raremap.scene.raster import Image, ImageReader

FORMAT = 1
_WEIGHTS, _CARD = "model.safetensors", "README.md"


@dataclass(frozen=True)
class Bundle:
    """A network with its labels, bands, normalisation, prior, decision, way of predicting and figures.

    `shares` are the class shares of the ground of the training; `prior` those that the scores have learned, which the
    stream and the loss may have moved away from them. `decision` belongs to the way of predicting
    that `predict` and its own record describe, `decisions` to others (`raremap.ways`). `options` rebuilds the network; None for a network of the
    user's. `features` are made of the bands and follow them; the network gets both. `nodata` marks no data in scenes, whatever their files say; None: what these say.
    """

    module: nn.Module
    scheme: LabelScheme
    bands: tuple[str, ...]
    normalization: Normalization
    options: ModelOptions | None = None
    prior: tuple[float, ...] | None = None
    decision: Decision | None = None
    predict: PredictOptions = field(default_factory=PredictOptions)
    nodata: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()
    decisions: tuple[Decision, ...] = ()
    shares: tuple[float, ...] | None = None

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        labels: LabelScheme,
        bands: Sequence[str],
        normalization: Normalization | None = None,
        **more: Any,
    ) -> Bundle:
        """Anyone's network `[B, C, H, W]` → logits `[B, K, H, W]`, with the streaming, outputs and card of ours.

        Without a `normalization` the network gets the bands as they are stored, as float32.
        """
        channels = with_features(bands, more.get("features", ()))
        normalization = normalization or Normalization.identity(len(channels))
        return cls(module, labels, tuple(bands), normalization, **more)

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network gets, in order: the bands, then the channels of the features."""
        return with_features(self.bands, self.features)

    @property
    def name(self) -> str:
        """A short name for cards and logs."""
        return str(self.info.get("name", "raremap-model"))

    def with_decision(self, decision: Decision | None) -> Bundle:
        """The same bundle with another decision."""
        return replace(self, decision=decision)

    def with_metrics(self, metrics: dict[str, Any]) -> Bundle:
        """The same bundle with other figures on its card."""
        return replace(self, metrics=metrics)

    def network(self, device: str = "auto", precision: str = "auto", compiled: bool = False) -> Network:
        """The network as maps need it: the channels of `opened` and validity in, probabilities out.

        Where `predict` averages over turns or resolutions it gives their mean. `compiled` by `torch.compile`.
        """
        from raremap.maps.average import Voice, averaged

        return averaged(
            [Voice(self.torch_network(device, precision, compiled), self.features)], self.bands, self.predict
        )

    def torch_network(
        self, device: str = "auto", precision: str = "auto", compiled: bool = False
    ) -> TorchNetwork:
        """The network without averages; "auto" computes in the precision that was settled when the bundle was made.

        So a map is computed as its score was. A device on which that precision is not fast computes in float32, and a
        bundle that says nothing settles on the first windows. Raises `ConfigError` where there is no such precision, or it is
        to be `compiled` where nothing can be.
        """
        from raremap.models.forward import TorchNetwork, best_device, fast_on

        if precision == "auto" and (settled := self.info.get("precision")) is not None:
            precision = settled if settled == fast_on(best_device(device)) else "float32"
        return TorchNetwork(self.module, self.normalization, device, precision, compiled)

    def opened(self, image: ImageReader) -> Image:
        """An image of the bundle's bands with what else its `network` wants; raises `SceneError` where it has no such."""
        from raremap.scene.features.views import viewed

        return viewed(image, [self.features], self.predict.turns)

    @staticmethod
    def ensemble(members: Sequence[Bundle], name: str = "") -> Ensemble:
        """Several bundles as one, which gives the mean of their probabilities; see `raremap.ensembles`."""
        from raremap.ensembles import Ensemble

        return Ensemble.of(members, name)

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an older one at the same place is replaced when the new one is complete.

        Raises `OutputError` where the folder cannot be written or holds something else than a bundle.
        """
        try:
            from safetensors.torch import save_file
        except ImportError:
            raise MissingExtra("safetensors", "train") from None

        with written_folder(folder, "bundle", (ITEM, ENSEMBLE)) as fresh:
            state = {k: v.detach().cpu().contiguous().clone() for k, v in self.module.state_dict().items()}
            save_file(state, fresh / _WEIGHTS)
            item = item_of(self)
            item["properties"]["raremap:weights_sha256"] = sha256_of(fresh / _WEIGHTS)
            item["properties"]["raremap:digest"] = digest_of(item)
            (fresh / ITEM).write_text(json.dumps(item, indent=2, ensure_ascii=False), encoding="utf-8")
            (fresh / _CARD).write_text(_card(self), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, module: nn.Module | None = None) -> Bundle:
        """Read a bundle; `module` is the network to fill where it was not built by raremap.

        Raises `BundleError` naming the file that is missing, altered or of a newer format.
        """
        folder = Path(folder)
        if folder.suffix.lower() == ".onnx":
            raise BundleError(f"{folder} is an exported model, expected the bundle that it was made of")
        if not folder.is_dir():
            raise BundleError(f"bundle {folder} does not exist; expected a folder with {_WEIGHTS} and {ITEM}")
        if (folder / ENSEMBLE).is_file():
            raise BundleError(
                f"{folder} is an ensemble of bundles; read it with Ensemble.load, not Bundle.load"
            )
        check_item(folder)
        if is_table_bundle(folder):
            raise BundleError(
                f"{folder} is a model of a table, expected one of imagery; rows are scored by raremap table predict"
            )
        if not (folder / _WEIGHTS).is_file():
            raise BundleError(
                f"bundle {folder} has no {_WEIGHTS}; it is incomplete, copy the whole folder again"
            )
        own = read_item(folder / ITEM, "a bundle", FORMAT)["properties"]
        if own["raremap:weights_sha256"] != sha256_of(folder / _WEIGHTS):
            raise BundleError(
                f"{folder / _WEIGHTS} was altered or cut short since it was written; copy the whole folder again"
            )
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise MissingExtra("safetensors", "train") from None

        fields = fields_of(own)
        options = fields["options"]
        if module is None:
            if options is None:
                raise BundleError(
                    f"bundle {folder} holds a network that raremap did not build; pass it: Bundle.load(folder, module=net)"
                )
            # The weights come from the bundle, so none are fetched.
            channels = with_features(fields["bands"], fields["features"])
            network = options.bare().build(len(channels), fields["scheme"].num_classes, channels)
            module = cast("nn.Module", network)
        try:
            module.load_state_dict(load_file(folder / _WEIGHTS))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise BundleError(f"the weights of bundle {folder} do not fit its network: {reason}") from None
        module.eval()
        return cls(module=module, **fields)


def fields_of(own: dict[str, Any]) -> dict[str, Any]:
    """What a description tells of a model, by the names of a bundle's fields: all but the network."""
    decision, prior, shares, model = (
        own.get(f"raremap:{key}") for key in ("decision", "prior", "shares", "model")
    )
    return {
        "scheme": LabelScheme(**own["raremap:labels"]),
        "bands": tuple(own["raremap:bands"]),
        "normalization": Normalization.from_dict(own["raremap:normalization"]),
        "options": model_options(model) if model else None,
        "prior": tuple(prior) if prior else None,
        "shares": tuple(shares) if shares else None,
        "decision": Decision.from_dict(decision) if decision else None,
        "predict": PredictOptions(**own["raremap:predict"]),
        "nodata": own.get("raremap:nodata"),
        "metrics": own.get("raremap:metrics", {}),
        "info": own.get("raremap:info", {}),
        "features": TypeAdapter(tuple[Feature, ...]).validate_python(own.get("raremap:features", [])),
        "decisions": tuple(map(Decision.from_dict, own.get("raremap:decisions", ()))),
    }


def item_of(bundle: Bundle) -> dict[str, Any]:
    """The STAC item (MLM extension 1.4); what is ours stands under `raremap:`."""
    import torch

    k, c = bundle.scheme.num_classes, len(bundle.channels)
    architecture = _architecture(bundle)
    classes = [
        {"value": v, "name": n, "color_hint": h[1:]}
        for v, n, h in zip(bundle.scheme.values, bundle.scheme.names, bundle.scheme.palette, strict=True)
    ]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
        "id": bundle.name,
        "geometry": None,
        "properties": {
            "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "mlm:name": bundle.name,
            "mlm:architecture": architecture,
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "pytorch",
            "mlm:framework_version": torch.__version__,
            "mlm:total_parameters": sum(p.numel() for p in bundle.module.parameters()),
            "mlm:pretrained": bool(bundle.options and bundle.options.pretrained),
            "mlm:input": [
                {
                    "name": "image",
                    "bands": [*bundle.bands, *_made(bundle)],
                    "input": {
                        "shape": [-1, c, -1, -1],
                        "dim_order": ["batch", "bands", "height", "width"],
                        "data_type": "float32",
                    },
                    "description": "bands as stored; raremap:normalization is applied first, invalid pixels are 0",
                }
            ],
            "mlm:output": [
                {
                    "name": "logits",
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, k, -1, -1],
                        "dim_order": ["batch", "class", "height", "width"],
                        "data_type": "float32",
                    },
                    "classification:classes": classes,
                }
            ],
            "raremap:format": FORMAT,
            "raremap:bands": list(bundle.bands),
            "raremap:features": [f.model_dump(mode="json") for f in bundle.features],
            "raremap:labels": bundle.scheme.model_dump(mode="json"),
            "raremap:model": bundle.options.model_dump(mode="json") if bundle.options else None,
            "raremap:normalization": bundle.normalization.to_dict(),
            "raremap:prior": list(bundle.prior) if bundle.prior else None,
            "raremap:shares": list(bundle.shares) if bundle.shares else None,
            "raremap:decision": bundle.decision.to_dict() if bundle.decision else None,
            "raremap:decisions": [d.to_dict() for d in bundle.decisions],
            "raremap:nodata": bundle.nodata,
            "raremap:predict": bundle.predict.model_dump(mode="json"),
            "raremap:metrics": bundle.metrics,
            "raremap:info": bundle.info,
        },
        "links": [],
        "assets": {
            "weights": {
                "href": _WEIGHTS,
                "type": "application/octet-stream; application=safetensors",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors",
            }
        },
    }


def _made(bundle: Bundle) -> list[dict[str, Any]]:
    """The channels of features as MLM describes bands that are made of others."""
    return [
        {"name": name, "format": "raremap", "expression": feature.model_dump(mode="json")}
        for feature in bundle.features
        for name in feature.channels
    ]


def _architecture(bundle: Bundle) -> str:
    if bundle.options is None:
        return type(bundle.module).__name__
    return bundle.options.title


def class_table(bundle: Bundle | Ensemble) -> list[str]:
    """The classes of a model card with their shares and scores, as lines of a Markdown table."""
    scheme, metrics = bundle.scheme, bundle.metrics
    by_class, where = metrics.get("by_class", {}), metrics.get("use", "")
    rows = []
    for i, name in enumerate(scheme.names):
        score = by_class.get(name, {})
        shares = " | ".join(f"{s[i]:.4f}" if s else "–" for s in (bundle.shares, bundle.prior))
        cells = [f"{score[m]:.3f}" if score.get(m) is not None else "–" for m in ("f1", "iou")]
        rows.append(f"| {scheme.values[i]} | {name} | {shares} | {cells[0]} | {cells[1]} |")
    head = f"| value | class | share in training | learned prior | F1{f' ({where})' if where else ''} | IoU |"
    return [head, "|---|---|---|---|---|---|", *rows]


def _card(bundle: Bundle) -> str:
    """The model card in Markdown."""
    decision = (
        "plain argmax"
        if bundle.decision is None or not bundle.decision.fitted
        else "fitted bias on the class scores"
    )
    made = (
        f" Made of them: {', '.join(n for f in bundle.features for n in f.channels)}."
        if bundle.features
        else ""
    )
    return "\n".join(
        [
            "---",
            "library_name: raremap",
            "pipeline_tag: image-segmentation",
            "tags: [remote-sensing, semantic-segmentation, class-imbalance]",
            "---",
            f"# {bundle.name}",
            "",
            f"{_architecture(bundle)}, {sum(p.numel() for p in bundle.module.parameters()) / 1e6:.1f} M parameters; "
            f"bands in order: {', '.join(bundle.bands)}.{made} Decision: {decision}.",
            "",
            *class_table(bundle),
            "",
            "```",
            "raremap predict THIS_FOLDER scene.tif -o map.tif",
            "```",
            "",
            "Scores are of the places that were held out in training; elsewhere they may differ.",
            "",
        ]
    )
