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
        follows = self.balance.aim > 0 or hasattr(self.balance, "target")
        if self.outer is not None and self.outer.classes in ("stream", "both") and not follows:
            raise ValueError(
                f"outer.classes '{self.outer.classes}' moves the target of the stream, and balance {self.balance.kind} "
                "follows none; take balance mixture or diao, or outer.classes: weights"
            )
        return self

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
            mend = "" if self.pseudo else ", or fill the ground between the points: pseudo: {}"
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

        Raises `ConfigError` naming the file, the key and the nearest known key.
        """
        import yaml

        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"experiment {path} does not exist; give the path of a YAML file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"experiment {path} cannot be read ({error}); give a YAML text file") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or "not YAML"
            raise ConfigError(f"experiment {path} is not valid YAML{where}: {problem}") from None
        if not isinstance(data, dict):
            raise ConfigError(
                f"experiment {path} holds {type(data).__name__}, expected keys such as scenes, labels, model"
            )
        return cls.from_dict(data, overrides, source=str(path))

    @classmethod
    def from_dict(
        cls, data: dict[str, Any], overrides: Sequence[str] = (), source: str = "experiment"
    ) -> Experiment:
        """The experiment of nested keys; `source` names them in errors."""
        data = _written_out(data)
        if "preset" in data:
            data = _merge(preset(str(data.pop("preset"))), data)
        for text in overrides:
            _override(data, text)
        data = _laid_out(_written_out(data))
        try:
            return cls(**data)
        except ValidationError as error:
            raise ConfigError(_explain(error, source, data)) from None

    def changed(self, data: dict[str, Any], source: str = "experiment") -> Experiment:
        """This experiment with nested keys on top; a choice of another `kind` replaces its section."""
        data = _merge(self.model_dump(mode="json"), _written_out(data))
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
            _put(data, key, value, source)
        return Experiment.from_dict(data, source=source)

    def to_yaml(self) -> str:
        """The resolved experiment as YAML that `load` reads back."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _written_out(data: dict[str, Any]) -> dict[str, Any]:
    """Keys with every shorthand written out, so that sections can be laid over each other."""
    return {**data, "loss": written_out(data["loss"])} if "loss" in data else dict(data)


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


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; a choice of another `kind` replaces the whole section, and so do `terms` of a loss."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        same_kind = (
            isinstance(below, dict)
            and isinstance(value, dict)
            and value.get("kind", below.get("kind")) == below.get("kind")
        )
        out[key] = _merge(below, value) if same_kind and isinstance(below, dict) and key != "terms" else value
    return out


def keys_of(text: str) -> dict[str, Any]:
    """Nested keys of overrides with spaces between; within brackets and quotes a space is part of the value.

    >>> keys_of("loss={focal: 0.5, iou: 0.5} train.steps=9")
    {'loss': {'focal': 0.5, 'iou': 0.5}, 'train': {'steps': 9}}
    """
    data: dict[str, Any] = {}
    for part in _split(text):
        _override(data, part)
    return data


def _split(text: str) -> list[str]:
    """Words of a text; a space within brackets or quotes parts none."""
    words, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        elif char.isspace() and depth <= 0:
            words.append("")
            continue
        words[-1] += char
    return [word for word in words if word]


def _laid_out(data: dict[str, Any]) -> dict[str, Any]:
    """The keys with `scenes.layout` put into words: what it says of a folder is below what the file says."""
    scenes = data.get("scenes")
    if not isinstance(scenes, dict) or not isinstance(scenes.get("layout"), str):
        return data
    from raremap.scene.sources import expand
    from raremap.tiles.formats import layout

    below = layout(scenes["layout"], expand(str(scenes.get("root") or ".")))
    out = dict(data, scenes={k: v for k, v in scenes.items() if k not in ("layout", "root")})
    if isinstance(out.get("labels"), str):
        below.pop("labels", None)
    return _merge(below, out)


def _override(data: dict[str, Any], text: str) -> None:
    """Apply one `a.b=c` in place; the value is read as YAML."""
    import yaml

    path, sep, value = text.partition("=")
    keys = path.strip().split(".")
    if not sep or not all(keys):
        raise ConfigError(f"override '{text}' is not of the form section.key=value, such as train.steps=500")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"override '{text}': the value is not valid YAML") from None
    _put(data, path.strip(), parsed, f"override '{text}'")


def _put(data: dict[str, Any], path: str, value: Any, source: str) -> None:
    """Set one dotted key in place."""
    keys = path.split(".")
    here = data
    for i, key in enumerate(keys[:-1]):
        below = here.get(key)
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{source}: '{'.'.join(keys[: i + 1])}' is {below!r}, not a section")
        here[key] = dict(below)
        here = here[key]
    here[keys[-1]] = value


def _explain(error: ValidationError, source: str, data: dict[str, Any]) -> str:
    """The first fault in one line, with the nearest known key where a key is unknown."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'; {nearest(where[-1], _known(where[:-1], data))}{more}"
    if first["type"] == "missing":
        return f"{source}: '{key}' is missing; it is needed{more}"
    reason = first["msg"].removeprefix("Value error, ")
    got = (
        ""
        if isinstance(first.get("input"), dict) or first["type"] == "value_error"
        else f", found {first.get('input')!r}"
    )
    at = f"{key}: " if key else ""
    return f"{source}: {at}{reason[0].lower() + reason[1:]}{got}{more}"


def _known(path: Sequence[str], data: dict[str, Any]) -> set[str]:
    """Keys that the section at `path` accepts, from the options' own fields."""
    from typing import get_args

    from pydantic import BaseModel

    models: list[Any] = [Experiment]
    for part in path:
        below: list[Any] = []
        for model in models:
            if part in model.model_fields:
                below += _models_in(model.model_fields[part].annotation, get_args, BaseModel)
        models = below or models
    return {name for model in models for name in model.model_fields} | ({"preset"} if not path else set())


def _models_in(annotation: Any, get_args: Any, base: type) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, base):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg, get_args, base)]
