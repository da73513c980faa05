"""Ways of predicting, and the decision that belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from raremap.errors import ConfigError
from raremap.maps.options import PredictOptions

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.measure.decision import Decision

Model = TypeVar("Model", bound="Bundle | Ensemble | Exported")


def predicting(
    model: Model,
    window: int | None = None,
    overlap: float | None = None,
    tta: str | bool | None = None,
    scales: Sequence[float] | None = None,
) -> Model:
    """The model that predicts in another way, with the decision that was fitted for it.

    What is None stays; `tta` True is "d4", False "none". Where no decision was fitted for that way, the model's own
    stays, and `unfitted` tells. Raises `ConfigError` where a value makes no sense, or scales enlarge windows beyond what an
    exported model takes.
    """
    tta = {True: "d4", False: "none"}.get(tta, tta) if isinstance(tta, bool) else tta
    asked = {"window": window, "overlap": overlap, "tta": tta, "scales": scales and tuple(scales)}
    given = {k: v for k, v in asked.items() if v is not None}
    try:
        options = PredictOptions(**{**model.predict.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0] if first["loc"] else "predict"
        raise ConfigError(
            f"{key} is {given.get(str(key))!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
    side, most = min(getattr(model, "graph", {}).get("fixed") or [0]), max(options.scales)
    if options.window <= side < round(options.window * most):  # a larger window is told where it is met
        raise ConfigError(
            f"{model.name} takes windows of {side} pixels at the most, and scale {most:g} makes windows of {options.window} "
            f"larger; use --window {int(side / most)}, or export without --fixed"
        )
    if options == model.predict:
        return model
    known = [d for d in (model.decision, *model.decisions) if d is not None]
    own = next((d for d in known if fits(d, options)), None)
    if own is None:
        return replace(model, predict=options)
    return replace(model, predict=options, decision=own, decisions=tuple(d for d in known if d is not own))


def keeping(model: Model, decision: Decision, options: PredictOptions) -> Model:
    """The model with a decision for a way of predicting; those for other ways stay, and so does the model's own way."""
    others = tuple(d for d in model.decisions if not fits(d, options))
    if options.way() == model.predict.way():
        return replace(model, decision=decision, decisions=others)
    return replace(model, decisions=(*others, decision))


def fits(decision: Decision, options: PredictOptions) -> bool:
    """Whether a decision was fitted for this way of predicting; of what it does not tell nothing is asked."""
    return not differences(decision, options.way())


def differences(decision: Decision, way: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By key, with what the decision was fitted and what is done now."""
    usual = {"tta": "none", "scales": [1.0]}
    then, now = usual | decision.way, usual | way
    return {k: (then[k], now[k]) for k in now if k in then and then[k] != now[k]}


def unfitted(model: Bundle | Ensemble | Exported) -> str:
    """That the model's decision belongs to another way of predicting, in one line; empty where it does not."""
    decision = model.decision
    if decision is None or not (decision.fitted or decision.softens):
        return ""
    found = differences(decision, model.predict.way())
    if not found:
        return ""
    told = ", ".join(f"{k} {_said(now)} (it: {_said(then)})" for k, (then, now) in found.items())
    return (
        f"the decision was fitted for another way of predicting, and this is with {told}; "
        "--argmax leaves it aside, `raremap calibrate` fits one for this way"
    )


def _said(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value}"
