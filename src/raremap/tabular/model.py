"""`TableModel`: a trained model of a table with everything needed to use it, as a folder without a pickle.

model.onnx    the model, for ONNX Runtime
model.json    a STAC item with the MLM extension: columns, encoding, calibration, prior, threshold, figures
README.md     the model card; free to edit
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import BundleError
from raremap.files import ENSEMBLE, ITEM, TABLE, check_item, digest_of, read_item, sha256_of, written_folder
from raremap.plain import plain
from raremap.tabular.calibration import Calibration, log_odds, sigmoid
from raremap.tabular.columns import Columns
from raremap.tabular.encode import Encoder
from raremap.tabular.fitting import Fitted
from raremap.tabular.onnx import OnnxScorer, Scorer, to_onnx
from raremap.tabular.options import Forest

FORMAT = 1
_MODEL, _CARD = "model.onnx", "README.md"


@dataclass(frozen=True)
class TableModel:
    """Rows of attributes to calibrated log-odds and probabilities.

    `logits` carry the prior `prior`: the share of positives in the training table. `serves` is the share that
    probabilities are given for (the true one, where the table was not drawn at its natural shares), and `threshold` the
    log-odds at `prior` from which on a row is an alarm.
    """

    columns: Columns
    encoder: Encoder
    scorer: Scorer
    shift: float
    calibration: Calibration
    prior: float
    serves: float
    threshold: float
    positive: str
    options: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fitted: Fitted, columns: Columns, calibration: Calibration, **more: Any) -> TableModel:
        """A model of scikit-learn with its calibration."""
        options = fitted.options.model_dump(mode="json")
        return cls(columns, fitted.encoder, fitted, fitted.shift, calibration, options=options, **more)

    @property
    def name(self) -> str:
        """A short name for cards and logs."""
        return str(self.info.get("name", "table-model"))

    def logits(self, values: np.ndarray) -> np.ndarray:
        """Calibrated log-odds float64 `[n]` of rows `[n, p]` as `columns` gives them; they carry `prior`."""
        if not len(values):
            return np.empty(0)
        return self.calibration(self.scorer.raw(self.encoder(values)) - self.shift)

    def probabilities(self, values: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probabilities float64 `[n]` of rows `[n, p]` where the share of positives is `prior` (default: `serves`)."""
        return sigmoid(self.logits(values) + self.moved(prior))

    def moved(self, prior: float | None = None) -> float:
        """What log-odds gain where the share of positives is `prior` (default: `serves`) instead of the table's."""
        return log_odds(self.serves if prior is None else prior) - log_odds(self.prior)

    def least(self, prior: float | None = None) -> float:
        """The probability from which on a row is an alarm, where the share of positives is `prior`."""
        return float(sigmoid(np.array(self.threshold + self.moved(prior))))

    def exported(self) -> TableModel:
        """The same model, run by ONNX Runtime."""
        if not isinstance(self.scorer, Fitted):
            return self
        return replace(self, scorer=OnnxScorer(to_onnx(self.scorer), _trees(self.options)))

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an older one at the same place is replaced when the new one is complete."""
        scorer = self.exported().scorer
        assert isinstance(scorer, OnnxScorer)
        with written_folder(folder, "bundle", (ITEM,)) as fresh:
            (fresh / _MODEL).write_bytes(scorer.data)
            item = _item(self)
            item["properties"]["raremap:weights_sha256"] = sha256_of(fresh / _MODEL)
            item["properties"]["raremap:digest"] = digest_of(item)
            (fresh / ITEM).write_text(json.dumps(item, indent=2, ensure_ascii=False), encoding="utf-8")
            (fresh / _CARD).write_text(_card(self), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> TableModel:
        """Read a bundle; raises `BundleError` naming the file that is missing, altered or of a newer format."""
        folder = Path(folder)
        if folder.is_file():
            raise BundleError(f"{folder} is a file; give the folder that `raremap table train` wrote")
        if not folder.is_dir():
            raise BundleError(f"bundle {folder} does not exist; expected a folder with {_MODEL} and {ITEM}")
        if (folder / ENSEMBLE).is_file():
            raise BundleError(
                f"{folder} is an ensemble of models of imagery; give the bundle of `raremap table train`"
            )
        check_item(folder)
        own = read_item(folder / ITEM, "a bundle", FORMAT, TABLE)["properties"]
        if TABLE not in own:
            raise BundleError(f"{folder} is no model of a table; use raremap predict for models of imagery")
        if not (folder / _MODEL).is_file() or own["raremap:weights_sha256"] != sha256_of(folder / _MODEL):
            raise BundleError(
                f"{folder / _MODEL} is missing, altered or cut short since it was written; copy the whole folder again"
            )
        options = own["raremap:model"]
        return cls(
            columns=Columns.from_dict(own["raremap:columns"], own.get("raremap:missing", ())),
            encoder=Encoder.from_dict(own["raremap:encoder"]),
            scorer=OnnxScorer.load(folder / _MODEL, _trees(options)),
            shift=own["raremap:shift"],
            calibration=Calibration.from_dict(own["raremap:calibration"]),
            prior=own["raremap:prior"],
            serves=own["raremap:serves"],
            threshold=own["raremap:threshold"],
            positive=own["raremap:positive"],
            options=options,
            metrics=own["raremap:metrics"],
            info=own["raremap:info"],
        )


def _trees(options: dict[str, Any]) -> int:
    return Forest(**options).trees if options["kind"] == "forest" else 0


def _item(model: TableModel) -> dict[str, Any]:
    """The STAC item (MLM extension 1.4); what is ours stands under `raremap:`."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
        "id": model.name,
        "geometry": None,
        "properties": {
            "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "mlm:name": model.name,
            "mlm:architecture": model.options["kind"],
            "mlm:tasks": ["classification"],
            "mlm:framework": "ONNX",
            "mlm:input": [
                {
                    "name": "rows",
                    "bands": [],
                    "input": {"shape": [-1, model.encoder.width], "dim_order": ["batch", "attribute"], "data_type": "float32"},
                    "description": "raremap:columns, encoded as raremap:encoder says",
                }
            ],
            "mlm:output": [
                {
                    "name": "logits",
                    "tasks": ["classification"],
                    "result": {"shape": [-1, 1], "dim_order": ["batch", "class"], "data_type": "float32"},
                    "description": "less raremap:shift, then raremap:calibration: log-odds at raremap:prior",
                }
            ],
            TABLE: FORMAT,
            "raremap:columns": model.columns.to_dict(),
            "raremap:missing": list(model.columns.missing),
            "raremap:encoder": plain(model.encoder.to_dict()),
            "raremap:model": model.options,
            "raremap:shift": model.shift,
            "raremap:calibration": model.calibration.to_dict(),
            "raremap:prior": model.prior,
            "raremap:serves": model.serves,
            "raremap:threshold": model.threshold,
            "raremap:positive": model.positive,
            "raremap:metrics": plain(model.metrics),
            "raremap:info": plain(model.info),
        },
        "links": [],
        "assets": {
            "weights": {
                "href": _MODEL,
                "type": "application/octet-stream; application=onnx",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "onnx",
            }
        },
    }  # fmt: skip


def _card(model: TableModel) -> str:
    """The model card in Markdown."""
    titles = {"average_precision": "average precision", "auc": "AUC", "f1": "F1 at the threshold"}
    rows = [f"| {t} | {model.metrics[k]} |" for k, t in titles.items() if k in model.metrics]
    moved = (
        f" Probabilities and figures are for a share of {model.serves:.4g}, to which rows are weighted."
        if model.serves != model.prior
        else ""
    )
    table = [
        f"| {c.name} | {c.kind}{' of ' + str(len(c.categories)) if c.categories else ''}"
        f"{f', {c.range[0]:.4g} to {c.range[1]:.4g}' if c.range else ''} |"
        for c in model.columns
    ]
    return "\n".join(
        [
            "---",
            "library_name: raremap",
            "pipeline_tag: tabular-classification",
            "tags: [class-imbalance, susceptibility]",
            "---",
            f"# {model.name}",
            "",
            f"{model.options['kind'].capitalize()} for '{model.info.get('label', 'label')}' = {model.positive}; "
            f"{model.prior:.4g} of {model.info.get('rows', 0):,} rows are positive.{moved} "
            f"Alarms from a probability of {model.least():.3g} on.",
            "",
            f"| out of fold ({model.info.get('folds', 'folds')}) | |",
            "|---|---|",
            *rows,
            "",
            "| attribute | |",
            "|---|---|",
            *table,
            "",
            "```",
            "raremap table predict THIS_FOLDER rows.csv -o scores.csv",
            "```",
            "",
        ]
    )
