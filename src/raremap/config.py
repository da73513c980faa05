"""`Experiment`: one YAML file that says what is mapped, from what, and how.

It only composes the options of the rooms; each option is described beside what it sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from raremap.balance.options import BalanceOptions, Uniform
from raremap.batches.options import AugmentOptions
from raremap.errors import ConfigError, nearest
from raremap.keys import explain, merge, override, put, read_keys
from raremap.labels import LabelScheme
from raremap.learn.options import OptimizerOptions, OuterOptions, PseudoOptions, TrainOptions
from raremap.learn.tuning.options import TuneOptions
from raremap.maps.options import PredictOptions
from raremap.measure.losses import CrossEntropy, Hialf, LossOptions, written_out
from raremap.measure.options import DecisionOptions
from raremap.measure.terms.festa import Festa
from raremap.models.options import ModelOptions, Smp
from raremap.options import Options
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import PointOptions, SplitOptions, ThinOptions, TileOptions
from raremap.tiles.sections import laid_out


class Experiment(Options):
    """Everything one training needs: data, labels, tiles, split, model, loss, training, decision, prediction.

    Relative paths start at the working folder (`scenes.root` moves those of the data).
    """

    out: str
    scenes: ScenesOptions
    labels: LabelScheme
    tiles: TileOptions = TileOptions()
    split: SplitOptions = SplitOptions()
    thin: ThinOptions = ThinOptions()
    points: PointOptions | None = None
    balance: BalanceOptions = Uniform()
    model: ModelOptions = Smp()
    loss: LossOptions = CrossEntropy()
    pseudo: PseudoOptions | None = None
    festa: Festa | None = None
    outer: OuterOptions | None = None
    optimizer: OptimizerOptions = OptimizerOptions()
    augment: AugmentOptions = AugmentOptions()
    train: TrainOptions = TrainOptions()
    decision: DecisionOptions = DecisionOptions()
    predict: PredictOptions = PredictOptions()
    tune: TuneOptions | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _named_scheme(cls, labels: Any) -> Any:
        return LabelScheme.named(labels) if isinstance(labels, str) else labels

    @model_validator(mode="after")
    def _known_class(self) -> Experiment:
        of = self.decision.of
        if of is not None and of not in self.labels.names:
            raise ValueError(f"decision.of is '{of}', which is not a class; {nearest(of, self.labels.names)}")
        return self

    @model_validator(mode="after")
    def _with_outer_loop(self) -> Experiment:
        asks = isinstance(self.loss, Hialf) and self.loss.weighting == "outer"
        if asks and (self.outer is None or not self.outer.terms):
            raise ValueError(
                "loss.weighting is 'outer', and there is no outer loop for it; add outer: {terms: true}"
            )
        if self.outer is not None and self.outer.classes == "none" and not self._learns_terms():
            why = (
                "a hialf of another weighting than 'outer'"
                if isinstance(self.loss, Hialf)
                else "a loss of one term"
            )
            raise ValueError(
                "outer has nothing to learn: its classes is 'none', and it may not weigh the terms of "
                f"{why if self.outer.terms else 'the loss (outer.terms is false)'}; leave outer out, or set outer.classes"
            )
        follows = self.balance.aim > 0 or hasattr(self.balance, "target")
        if self.outer is not None and self.outer.classes in ("stream", "both") and not follows:
            raise ValueError(
                f"outer.classes '{self.outer.classes}' moves the target of the stream, and balance {self.balance.kind} "
                "follows none; take balance mixture or diao, or outer.classes: weights"
            )
        return self

    def _learns_terms(self) -> bool:
        return self.outer is not None and self.outer.terms and self.loss.learns_terms()

    @model_validator(mode="after")
    def _fit_for_scaling(self) -> Experiment:
        own = [f.called for f in self.scenes.features if getattr(f, "pixel_m", None) is not None]
        if self.augment.scale is not None and own:
            raise ValueError(
                f"augment.scale changes the size of a pixel, and the feature '{own[0]}' has a pixel_m that does not; "
                "leave out one of them"
            )
        return self

    @model_validator(mode="after")
    def _fit_for_several_devices(self) -> Experiment:
        if self.train.devices == 1:
            return self
        parts = self.loss.parts()
        alone = [f"loss term '{n}'" for n, p in parts.items() if p.factor > 0 and not p.term.pools]
        alone += [n for n in ("outer", "pseudo", "festa") if getattr(self, n) is not None]
        if alone:
            raise ValueError(
                f"{alone[0]} trains on one device only, and train.devices is {self.train.devices}; set it to 1"
            )
        return self

    @model_validator(mode="after")
    def _fit_for_points(self) -> Experiment:
        if self.points is None:
            return self
        self.points.by_class(self.labels.names)
        if regional := self.loss.of_areas(filled=self.pseudo is not None):
            filled = self.pseudo or self.loss.of_areas(filled=True)
            mend = "" if filled else ", or fill the ground between the points: pseudo: {}"
            raise ValueError(
                f"the loss has {', '.join(regional)}, which measure areas, and points have none; take pixelwise terms "
                f"such as ce and focal{mend}"
            )
        if getattr(self.balance, "copy_paste", None) is not None:
            raise ValueError(
                "balance.copy_paste cuts objects out by their labels, and points show no outline; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _fit_for_fractions(self) -> Experiment:
        if self.scenes.makes_fractions and (fault := self.fractions_fault()):
            raise ValueError(fault)
        return self

    def fractions_fault(self) -> str | None:
        """What in the experiment cannot be with labels that are shares of classes, in one line."""
        if hard := self.loss.of_classes():
            return (
                f"the labels are class fractions, on which the loss's {', '.join(hard)} have no meaning; take ce, focal, "
                "poly, log_cosh, dice, log_cosh_dice, generalised_dice, iou, tversky or focal_tversky, or labels of one "
                "class a pixel (scenes.rescale: {kind: area})"
            )
        if self.points is not None:
            return (
                "the labels are class fractions, and a point is of one class; leave points out, or take labels of one "
                "class a pixel (scenes.rescale: {kind: area})"
            )
        return None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment of a YAML file, with `a.b=c` overrides applied last.

        A file without `preset` starts from the recipe `raremap` (with `points`: from that of points); `preset: null`
        from each option's own default. Raises `ConfigError` naming the file, the key and the nearest known key.
        """
        data = read_keys(path)
        return cls.from_dict({"preset": _first_preset(data), **data}, overrides, source=str(path))

    @classmethod
    def from_dict(
        cls, data: dict[str, Any], overrides: Sequence[str] = (), source: str = "experiment"
    ) -> Experiment:
        """The experiment of nested keys; `source` names them in errors. What no key and no `preset` says is each option's default."""
        data = _written_out(data)
        told = dict(data)
        for text in overrides:
            override(told, text)
        data.pop("preset", None)
        if (name := told.get("preset")) is not None:
            data = merge(_without_other_kinds(preset(str(name)), told), data)
        for text in overrides:
            override(data, text)
        data.pop("preset", None)
        data = laid_out(_written_out(data))
        try:
            return cls(**data)
        except ValidationError as error:
            raise ConfigError(explain(error, source, cls)) from None

    def changed(self, data: dict[str, Any], source: str = "experiment") -> Experiment:
        """This experiment with nested keys on top; a choice of another `kind` replaces its section."""
        data = merge(self.model_dump(mode="json"), _written_out(data))
        return Experiment.from_dict(data, source=source)

    def with_values(self, values: dict[str, Any], source: str = "experiment") -> Experiment:
        """This experiment with other values of options that are named by their dots, as `--set` would give them.

        In the sections that they touch, what was never set is left to its defaults: another `kind` need not know it.
        """
        data = self.model_dump(mode="json")
        for section in {key.partition(".")[0] for key in values}:
            own = getattr(self, section, None)
            if isinstance(own, Options):
                kind = {"kind": data[section]["kind"]} if "kind" in data[section] else {}
                data[section] = {**kind, **own.model_dump(mode="json", exclude_unset=True)}
        for key, value in values.items():
            put(data, key, value, source)
        return Experiment.from_dict(data, source=source)

    def to_yaml(self) -> str:
        """The resolved experiment as YAML that `load` reads back."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _written_out(data: dict[str, Any]) -> dict[str, Any]:
    """Keys with every shorthand written out, so that sections can be laid over each other."""
    return {**data, "loss": written_out(data["loss"])} if "loss" in data else dict(data)


def _first_preset(data: dict[str, Any]) -> str:
    """The recipe that a file which names none starts from; points are no areas to cut, paste and compare."""
    return "points" if data.get("points") is not None else "raremap"


def _without_other_kinds(recipe: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the sections for which the keys or an override choose another `kind`."""

    def stays(section: str, keys: Any) -> bool:
        over = told.get(section)
        return not (isinstance(over, dict) and isinstance(keys, dict)) or over.get("kind") in (
            None,
            keys.get("kind"),
        )

    return {section: keys for section, keys in recipe.items() if stays(section, keys)}


def preset_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("raremap") / "presets"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def preset(name: str) -> dict[str, Any]:
    """The keys of a recipe that comes with the package; raises `ConfigError` where there is none of that name."""
    import yaml

    if name not in preset_names():
        raise ConfigError(f"no preset is called '{name}'; {nearest(name, preset_names())}")
    text = (resources.files("raremap") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
