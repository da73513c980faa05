"""Eight-bit networks: ranges of every tensor taken from training pixels, written into the graph as QDQ nodes."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import MissingExtra

# What is worth eight bits. Activations and resizing between them follow, so that values stay as bytes.
_OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Relu", "Clip", "Resize",
)  # fmt: skip


def quantize(source: Path, target: Path, batches: Sequence[tuple[np.ndarray, np.ndarray]], part: str) -> None:
    """Write the graph `source` as `target` with the nodes of one `part` in int8: weights by channel, others by tensor.

    What comes before and after the part, such as normalisation and softmax, stays float32, and so does the layer that
    makes the scores: rare classes are told by small differences of them. `batches` are images `[B, C, h, w]` as stored
    with validity `[B, h, w]`; the ranges are the least and greatest values that they give.
    Weights use seven of their eight bits: processors without VNNI add products of full ones in sixteen bits, which
    overflows (a mobilenet lost a quarter of its pixels to it).
    """
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtra(str(error.name or "onnxruntime").split(".")[0], "export") from None

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[tuple[np.ndarray, np.ndarray]] = iter(batches)

        def get_next(self) -> Any:
            found = next(self._left, None)
            return None if found is None else {"image": found[0].astype(np.float32), "valid": found[1]}

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize.") as folder, _silence():
        whole = Path(folder) / "whole.onnx"
        quant_pre_process(str(source), str(whole), skip_optimization=True, skip_symbolic_shape=True)
        nodes = onnx.load(whole).graph.node
        quantize_static(
            str(whole), str(target), Batches(), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_exclude=[n.name for n in nodes if not n.name.startswith(f"/{part}/")] + _last(nodes),
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip


def _last(nodes: Sequence[Any]) -> list[str]:
    """The layers with weights that make the graph's outputs: nothing with weights comes after them."""
    follows: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            follows.setdefault(name, []).append(node)
    weighted = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

    def ends(node: Any, seen: set[str]) -> bool:
        for after in (n for out in node.output for n in follows.get(out, ())):
            if after.name not in seen:
                seen.add(after.name)
                if after.op_type in weighted or not ends(after, seen):
                    return False
        return True

    return [n.name for n in nodes if n.op_type in weighted and ends(n, set())]


class _silence:
    """Warnings and log lines of the quantiser kept to itself: they are about its own files."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error: Any) -> None:
        logging.disable(self._level)
        self._warnings.__exit__(*error)
