"""`Exported`: a bundle as an ONNX file and a JSON file beside it, for machines without torch.

    model.onnx        bands and validity in; probabilities and classes out
    model.onnx.json   a STAC item with the MLM extension, as a bundle's, and what the graph holds

`predict` takes it where it takes a bundle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.bundle import FORMAT, fields_of
from raremap.errors import BundleError, ConfigError
from raremap.files import digest_of, is_table_bundle, read_item, sha256_of
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision
from raremap.models.options import ModelOptions
from raremap.models.precision import checked
from raremap.scene.features.channels import with_features
from raremap.scene.features.options import Feature
from raremap.scene.normalize import Normalization

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.maps.stream import Network
    from raremap.scene.raster import Image, ImageReader

SUFFIX = ".onnx"


@dataclass(frozen=True)
class Exported:
    """The graph at `path` with all that the bundle told of it; fields are those of a `Bundle`.

    `graph` says what the file holds: its checksum, opset, precision, the temperature that its probabilities have, the
    one size that it takes (`fixed`, None: any), and which channels must be made before it (`before`). `content` is the
    file's where it came from another machine; None: it is read from `path`.
    """

    path: Path
    scheme: LabelScheme
    bands: tuple[str, ...]
    normalization: Normalization
    graph: dict[str, Any]
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
    content: bytes | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process, or to a machine that has no such file: the graph's bytes as well."""
        return {**self.__dict__, "content": self.content or self.path.read_bytes()}

    @property
    def name(self) -> str:
        """A short name for logs and tags."""
        return str(self.info.get("name", self.path.stem))

    @property
    def before(self) -> tuple[Feature, ...]:
        """The features that are made before the graph, which gets their channels after the bands."""
        return tuple(f for f in self.features if set(f.channels) <= set(self.graph["before"]))

    @property
    def channels(self) -> tuple[str, ...]:
        """What the graph gets, in order."""
        return with_features(self.bands, self.before)

    def with_decision(self, decision: Decision | None) -> Exported:
        """The same with another decision for maps; the classes that the graph itself gives stay."""
        return replace(self, decision=decision)

    def network(self, device: str = "auto", precision: str = "auto", compiled: bool = False) -> Network:
        """The graph as maps need it: the channels of `opened` and validity in, probabilities out.

        It computes in what it was exported with. Raises `ConfigError` where `precision` asks for another or it is to be
        `compiled`, `MissingExtra` without ONNX Runtime.
        """
        from raremap.maps.average import Voice, averaged
        from raremap.maps.runtime import RuntimeNetwork

        if compiled:
            raise ConfigError(
                f"{self.path.name} is computed by ONNX Runtime, which has nothing to compile; leave out --compile"
            )
        fixed = self.graph["fixed"]
        network = RuntimeNetwork(
            self.path,
            self.graph["temperature"],
            tuple(fixed) if fixed else None,
            device,
            self.computes_in(precision),
            self.content,
        )
        return averaged([Voice(network, self.before)], self.bands, self.predict)

    def computes_in(self, precision: str) -> str:
        """The graph's own precision; raises `ConfigError` where another is asked for."""
        own = str(self.graph["precision"])
        if precision not in ("auto", own):
            raise ConfigError(
                f"precision is {checked(precision)!r}, but {self.path.name} computes in {own}, in which it was exported; "
                "leave it out"
            )
        return own

    def opened(self, image: ImageReader) -> Image:
        """An image of the bands with the features that the graph wants; raises `SceneError` where it has no such."""
        from raremap.scene.features.views import viewed

        return viewed(image, [self.before], self.predict.turns)

    @classmethod
    def load(cls, path: str | Path) -> Exported:
        """Read the JSON file and look whether the graph is the one it was written with; torch is not needed.

        Raises `BundleError` naming the file that is missing, altered, cut short or of a newer format.
        """
        path = Path(path)
        if not path.is_file():
            raise BundleError(
                f"exported model {path} does not exist; make it: raremap export BUNDLE -o {path}"
            )
        beside = sidecar(path)
        if is_table_bundle(path.parent):
            raise BundleError(f"{path} is of a model of a table; give its folder to raremap table predict")
        if not beside.is_file():
            raise BundleError(
                f"{path} has no {beside.name} beside it, which says its bands and classes; copy both files, "
                "or export the bundle again"
            )
        own = read_item(beside, "an exported model", FORMAT)["properties"]
        if "raremap:onnx" not in own:
            raise BundleError(f"{beside} is not an exported model's description; export the bundle again")
        graph = own["raremap:onnx"]
        if graph["sha256"] != sha256_of(path):
            raise BundleError(
                f"{path} was altered or cut short since it was written, or is not the one of {beside.name}; "
                "copy both files again"
            )
        return cls(path=path, graph=graph, **fields_of(own))


def sidecar(path: Path) -> Path:
    """The JSON file beside an exported model."""
    return path.with_name(f"{path.name}.json")


def describe(item: dict[str, Any], graph: dict[str, Any], channels: list[Any], scheme: LabelScheme) -> str:
    """The text of the JSON file: a bundle's `item`, with the graph's inputs and outputs in place of the network's."""
    properties = dict(item["properties"])
    size = graph["fixed"] or [-1, -1]
    batch = 1 if graph["fixed"] else -1
    plane = {"shape": [batch, *size], "dim_order": ["batch", "height", "width"]}
    properties |= {
        "mlm:framework": "ONNX",
        "mlm:framework_version": f"opset {graph['opset']}",
        "mlm:input": [
            {
                "name": "image",
                "bands": channels,
                "input": {
                    "shape": [batch, len(channels), *size],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "description": "as stored: the graph normalises, and makes the features that stand not among the bands",
            },
            {
                "name": "valid",
                "bands": [],
                "input": {**plane, "data_type": "bool"},
                "description": "whether a pixel is usable; what stands at the others does not count",
            },
        ],
        "mlm:output": [
            {
                "name": "probabilities",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [batch, scheme.num_classes, *size],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "description": f"after the temperature {graph['temperature']:g}",
                "classification:classes": item["properties"]["mlm:output"][0]["classification:classes"],
            },
            {
                "name": "classes",
                "tasks": ["semantic-segmentation"],
                "result": {**plane, "data_type": "uint8"},
                "description": f"the classes' own values, by the decision; {scheme.map_nodata} where not valid",
                "classification:classes": item["properties"]["mlm:output"][0]["classification:classes"],
            },
        ],
        "raremap:onnx": graph,
    }
    model = {
        "href": graph["file"],
        "type": "application/octet-stream; framework=onnx",
        "roles": ["mlm:model"],
        "mlm:artifact_type": "onnx",
    }
    described = {**item, "properties": properties, "assets": {"model": model}}
    properties["raremap:digest"] = digest_of(described)
    return json.dumps(described, indent=2, ensure_ascii=False)


def load_model(path: str | Path) -> Bundle | Ensemble | Exported:
    """Read what is at a path: an exported model, where it ends in .onnx, else a bundle or an ensemble."""
    from raremap.ensembles import load_bundle

    return Exported.load(path) if Path(path).suffix.lower() == SUFFIX else load_bundle(path)
