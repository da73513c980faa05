"""A model of tables whose log-odds anyone can work out, a fusion with a model of scenes, and units for them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from raremap.tabular.calibration import Calibration
from raremap.tabular.columns import Column, Columns
from raremap.tabular.encode import Encoder
from raremap.tabular.fusion import Fusion
from raremap.tabular.model import TableModel
from raremap.tabular.onnx import OnnxScorer

MODEL = "tiny-units"
FUSION = Fusion(Calibration(), Calibration(), (0.5, 1.0), 0.25, 0.2, 0.0, (-1.0, 0.5))


def log_odds(slope: float | None, rock: str | None) -> float:
    """What the model says, at its prior of 0.2; a missing slope is 20, a missing or new rock nothing."""
    return 0.1 * (20 if slope is None else slope) - 3 + (1.0 if rock == "schist" else 0.0)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def model() -> TableModel:
    """An alarm is a log-odds of 0 or more."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([[0.1], [0.0], [1.0]], np.float32), "w")
    bias = numpy_helper.from_array(np.array([-3.0], np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["rows", "w", "b"], ["logits"])],
        "by-hand",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 1])],
        [weights, bias],
    )
    data = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8
    ).SerializeToString()
    columns = Columns((Column("slope", "numeric"), Column("rock", "categorical", ("marl", "schist"))))
    return TableModel(
        columns, Encoder((0, 2), (20.0,), ()), OnnxScorer(data, 0, 1), 0.0, Calibration(), 0.2, 0.2, 0.0, "1",
        options={"kind": "logistic"}, info={"name": "Tiny units", "label": "landslide"},
    )  # fmt: skip


def save_fusion(path: Path) -> Path:
    path.write_text(json.dumps({"fusion": FUSION.to_dict(), "gains": None, "top": 2}))
    return path


def units(origin: tuple[float, float] = (4e5, 4.6e6), side: float = 300.0, **columns: list[Any]) -> Any:
    """Four squares in a row from a corner, in UTM 31N."""
    import geopandas as gpd
    import shapely

    left, top = origin
    shapes = [shapely.box(left + side * i, top - side, left + side * (i + 1), top) for i in range(4)]
    given = {
        "unit": [11, 12, 13, 14],
        "slope": [10.0, 45.0, None, 30.0],
        "rock": ["marl", "schist", "schist", "chalk"],
    }
    return gpd.GeoDataFrame({**given, **columns}, geometry=shapes, crs="EPSG:25831")


def geopackage(path: Path, frame: Any = None, layer: str = "units") -> Path:
    (units() if frame is None else frame).to_file(path, layer=layer, driver="GPKG", engine="pyogrio")
    return path
