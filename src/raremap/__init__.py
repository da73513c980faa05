"""raremap: maps from satellite scenes that do not lose the rare classes.

Every verb of the command line is one function here. Names are loaded when they are first used, so
that `import raremap` is instant and brings neither torch nor rasterio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name → module that holds it.
_HOME = {
    "Bundle": "raremap.bundle",
    "Catalog": "raremap.tiles.catalog",
    "Ensemble": "raremap.ensembles",
    "Experiment": "raremap.config",
    "Exported": "raremap.exported",
    "LabelScheme": "raremap.labels",
    "RaremapError": "raremap.errors",
    "RaremapWarning": "raremap.errors",
    "SamplingPlan": "raremap.balance.plan",
    "TableModel": "raremap.tabular.model",
    "acquire": "raremap.workflows.acquire",
    "area": "raremap.workflows.area",
    "calibrate": "raremap.workflows.calibrate",
    "census": "raremap.workflows.census",
    "change": "raremap.workflows.change",
    "clean": "raremap.workflows.clean",
    "compare": "raremap.workflows.compare",
    "demo": "raremap.workflows.demo",
    "ensemble": "raremap.workflows.ensemble",
    "evaluate": "raremap.workflows.evaluate",
    "export": "raremap.workflows.export",
    "export_tiles": "raremap.workflows.export_tiles",
    "faults": "raremap.workflows.faults",
    "kfold": "raremap.workflows.kfold",
    "layout": "raremap.workflows.layout",
    "load_bundle": "raremap.ensembles",
    "list_models": "raremap.workflows.models",
    "plan": "raremap.workflows.plan",
    "predict": "raremap.workflows.predict",
    "prepare": "raremap.workflows.prepare",
    "renew": "raremap.workflows.renew",
    "rescale": "raremap.workflows.rescale",
    "sample": "raremap.workflows.sample",
    "simulate": "raremap.workflows.simulate",
    "table_fuse": "raremap.workflows.table_fuse",
    "table_fuse_at": "raremap.workflows.table_fuse_at",
    "table_predict": "raremap.workflows.table_predict",
    "table_train": "raremap.workflows.table_train",
    "train": "raremap.workflows.train",
    "tune": "raremap.workflows.tune",
    "vectorize": "raremap.workflows.vectorize",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from raremap.balance.plan import SamplingPlan as SamplingPlan
    from raremap.bundle import Bundle as Bundle
    from raremap.config import Experiment as Experiment
    from raremap.ensembles import Ensemble as Ensemble
    from raremap.ensembles import load_bundle as load_bundle
    from raremap.errors import RaremapError as RaremapError
    from raremap.errors import RaremapWarning as RaremapWarning
    from raremap.exported import Exported as Exported
    from raremap.labels import LabelScheme as LabelScheme
    from raremap.tabular.model import TableModel as TableModel
    from raremap.tiles.catalog import Catalog as Catalog
    from raremap.workflows.acquire import acquire as acquire
    from raremap.workflows.area import area as area
    from raremap.workflows.calibrate import calibrate as calibrate
    from raremap.workflows.census import census as census
    from raremap.workflows.change import change as change
    from raremap.workflows.clean import clean as clean
    from raremap.workflows.compare import compare as compare
    from raremap.workflows.demo import demo as demo
    from raremap.workflows.ensemble import ensemble as ensemble
    from raremap.workflows.evaluate import evaluate as evaluate
    from raremap.workflows.export import export as export
    from raremap.workflows.export_tiles import export_tiles as export_tiles
    from raremap.workflows.faults import faults as faults
    from raremap.workflows.kfold import kfold as kfold
    from raremap.workflows.layout import layout as layout
    from raremap.workflows.models import list_models as list_models
    from raremap.workflows.plan import plan as plan
    from raremap.workflows.predict import predict as predict
    from raremap.workflows.prepare import prepare as prepare
    from raremap.workflows.renew import renew as renew
    from raremap.workflows.rescale import rescale as rescale
    from raremap.workflows.sample import sample as sample
    from raremap.workflows.simulate import simulate as simulate
    from raremap.workflows.table_fuse import table_fuse as table_fuse
    from raremap.workflows.table_fuse_at import table_fuse_at as table_fuse_at
    from raremap.workflows.table_predict import table_predict as table_predict
    from raremap.workflows.table_train import table_train as table_train
    from raremap.workflows.train import train as train
    from raremap.workflows.tune import tune as tune
    from raremap.workflows.vectorize import vectorize as vectorize


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'raremap' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
