"""A fitted model as ONNX, and what runs it: encoded rows in, the model's own log-odds out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raremap.errors import BundleError, MissingExtra, reason
from raremap.tabular.fitting import Fitted, clipped_log_odds
from raremap.tabular.options import Boosting, Forest

_OPSET = {"": 15, "ai.onnx.ml": 3}


class Scorer(Protocol):
    """Encoded rows float32 `[n, width]` to the log-odds of a model, as it was fitted, float64 `[n]`."""

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        """The log-odds."""
        ...


def to_onnx(model: Fitted) -> bytes:
    """The estimator as ONNX: log-odds of boosting and regression, votes of a forest."""
    if isinstance(model.options, Boosting):
        return _boosting(model.estimator, model.encoder.width)
    try:
        from skl2onnx import to_onnx as convert
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        raise MissingExtra("skl2onnx", "tables") from None
    options: dict[str, Any] = {"zipmap": False}
    if not isinstance(model.options, Forest):
        options["raw_scores"] = True
    proto: Any = convert(
        model.estimator,
        initial_types=[("rows", FloatTensorType([None, model.encoder.width]))],  # type: ignore[arg-type]
        options={id(model.estimator): options},
        target_opset=_OPSET,
    )
    return proto.SerializeToString()


@dataclass
class OnnxScorer:
    """A model that ONNX Runtime runs; `trees` of a forest, 0 for others. Picklable, several threads may call it."""

    data: bytes
    trees: int
    threads: int = 0
    _session: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    @classmethod
    def load(cls, path: Path, trees: int) -> OnnxScorer:
        """The model of a file; raises `BundleError` where it is none."""
        scorer = cls(path.read_bytes(), trees)
        try:
            scorer._opened()
        except MissingExtra:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common public parent
            raise BundleError(f"{path} is not a model that ONNX Runtime can read ({reason(error)})") from None
        return scorer

    def _opened(self) -> Any:
        if self._session is None:
            try:
                import onnxruntime
            except ImportError:
                raise MissingExtra("onnxruntime", "tables") from None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            self._session = onnxruntime.InferenceSession(
                self.data, options, providers=["CPUExecutionProvider"]
            )
        return self._session

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        """The model's own log-odds."""
        session = self._opened()
        out = session.run([session.get_outputs()[-1].name], {session.get_inputs()[0].name: encoded})[0]
        last = np.asarray(out)[:, -1]
        return clipped_log_odds(last, self.trees) if self.trees else last.astype(np.float64)


def _boosting(estimator: Any, width: int) -> bytes:
    """scikit-learn's histogram gradient boosting as ONNX's ensemble of regression trees.

    skl2onnx 1.20 gives attributes of a type that onnx 1.23 refuses, and rounds thresholds to float32: a value
    just above one could fall on its other side. Here a threshold is the largest float32 that does not exceed it, which
    parts float32 values in the same way.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise MissingExtra("onnx", "tables") from None
    columns: dict[str, list[Any]] = {
        k: [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
                        "missing_value_tracks_true")
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(estimator._predictors):
        for i, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            if not leaf and node["is_categorical"]:
                raise AssertionError("categories are indicators here")
            columns["treeids"].append(tree)
            columns["nodeids"].append(i)
            columns["featureids"].append(0 if leaf else int(node["feature_idx"]))
            columns["values"].append(0.0 if leaf else _below(float(node["num_threshold"])))
            columns["modes"].append("LEAF" if leaf else "BRANCH_LEQ")
            columns["truenodeids"].append(0 if leaf else int(node["left"]))
            columns["falsenodeids"].append(0 if leaf else int(node["right"]))
            columns["missing_value_tracks_true"].append(0 if leaf else int(node["missing_go_to_left"]))
            if leaf:
                leaves["treeids"].append(tree)
                leaves["nodeids"].append(i)
                leaves["ids"].append(0)
                leaves["weights"].append(float(node["value"]))
    attributes: dict[str, Any] = {f"nodes_{k}": v for k, v in columns.items()}
    attributes |= {f"target_{k}": v for k, v in leaves.items()}
    node = helper.make_node(
        "TreeEnsembleRegressor", ["rows"], ["logits"], domain="ai.onnx.ml", n_targets=1,
        base_values=[float(np.ravel(estimator._baseline_prediction)[0])], post_transform="NONE",
        **attributes,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "boosting",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid(domain, number) for domain, number in _OPSET.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _below(threshold: float) -> float:
    """The largest float32 that does not exceed it."""
    if not np.isfinite(threshold):
        return float(np.finfo(np.float32).max) if threshold > 0 else float(np.finfo(np.float32).min)
    rounded = np.float32(threshold)
    # As Python floats: numpy would compare a float32 with the threshold rounded to float32.
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))
