"""Encoders filled with weights that were made elsewhere, their stems widened to the bands at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, MissingExtra, reason
from raremap.models.stems import RGB, same_bands, widened_state
from raremap.scene.bandnames import landsat_colour

log = logging.getLogger("raremap")

# An encoder of so many bands, with these weights of its library's, or with none.
Make = Callable[[int, str | None], nn.Module]


def fill(encoder: nn.Module, name: str, weights: str, bands: Sequence[str] | None, make: Make) -> None:
    """Fill an encoder with pretrained weights, its stem widened to the `bands`, and log which found a filter.

    `weights` are a .safetensors file, a name of torchgeo's, or one that `make` knows (a `KeyError` there says
    that it does not). Raises `ConfigError` where they cannot be had, or are another encoder's.
    """
    source: Sequence[str] = RGB
    if weights.endswith(".safetensors"):
        state, source = _state_of_file(Path(weights))
    elif "_Weights." in weights:
        state, source = _state_of_torchgeo(weights)
    else:
        state = _state_of_library(name, weights, make)
    own = encoder.state_dict()
    prefix = (
        "model."
        if next(iter(own)).startswith("model.") and not next(iter(state)).startswith("model.")
        else ""
    )
    state = {prefix + k: v for k, v in state.items() if prefix + k in own}
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            f"model.weights '{weights}' do not fit encoder '{name}': {len(missing)} of {len(own)} tensors are not "
            f"there, such as {missing[0]}; choose the encoder that they were made with"
        )
    shapes = {k: v.shape for k, v in own.items()}
    try:
        wide = widened_state(state, shapes, bands, _stems(make, len(source)), source)
        encoder.load_state_dict(wide, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"model.weights '{weights}' do not fit encoder '{name}' ({reason(error)})"
        ) from None
    if bands is not None:
        tell_filters(weights, bands, same_bands(bands, source), source)


def tell_filters(
    weights: str,
    bands: Sequence[str],
    found: Sequence[int | None],
    source: Sequence[str],
    random: bool = False,
) -> None:
    """Log which bands found a filter of pretrained weights; warn where none did, or where the others are `random`."""
    without = [b for b, i in zip(bands, found, strict=True) if i is None]
    if len(without) == len(bands):
        log.warning(
            "none of the bands %s has a filter in model.weights '%s', made of %s; name scenes.bands by colour, "
            "or set model.weights to null", ", ".join(bands), weights, ", ".join(source),
        )  # fmt: skip
        return
    others = "start at random" if random else "have the mean of all"
    log.log(
        logging.WARNING if without and random else logging.INFO,
        "model.weights '%s': %d of %d bands have filters of their own%s",
        weights, len(bands) - len(without), len(bands), f"; {', '.join(without)} {others}" if without else "",
    )  # fmt: skip


def _stems(make: Make, bands: int) -> list[str]:
    """Tensors of an encoder whose second axis is the bands: those that differ with one band more."""
    with torch.random.fork_rng(devices=[]):
        one, other = (make(c, None).state_dict() for c in (bands, bands + 1))
    return [k for k in one if one[k].shape != other[k].shape]


def _state_of_library(name: str, weights: str, make: Make) -> dict[str, Tensor]:
    """Weights that the encoder's own library fetches, for red, green and blue."""
    try:
        return make(3, weights).state_dict()
    except KeyError:
        raise ConfigError(
            f"model.weights '{weights}' do not exist for encoder '{name}'; use null or 'imagenet'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights '{weights}' of '{name}' could not be fetched ({reason(error)}); "
            "connect to the network once, or set model.weights to null"
        ) from None


def _state_of_file(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Tensors of a file, and the bands that its metadata names under `bands`, with commas between."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            named = (file.metadata() or {}).get("bands")
            return {k: file.get_tensor(k) for k in file.keys()}, named.split(",") if named else RGB  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model.weights {path} cannot be read ({reason(error)}); give a safetensors file of an encoder"
        ) from None


def _state_of_torchgeo(weights: str) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Weights of torchgeo by their name, and the bands that they were made with, by colour."""
    try:
        from torchgeo.models import get_weight  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("torchgeo", "torchgeo") from None
    try:
        found = get_weight(weights)
    except (ValueError, KeyError):
        raise ConfigError(
            f"model.weights '{weights}' are not known to torchgeo; its documentation lists them"
        ) from None
    try:
        state = found.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights '{weights}' could not be fetched ({reason(error)}); connect to the network once"
        ) from None
    count = int(found.meta["in_chans"])
    bands = [str(b) for b in found.meta.get("bands", [f"source {i}" for i in range(count)])]
    return state, _torchgeo_bands(weights, bands)


def _torchgeo_bands(weights: str, bands: Sequence[str]) -> list[str]:
    """The bands of torchgeo's weights by colour; its Landsats number them, each sensor in its own way."""
    if "LANDSAT" in weights:
        # What does not say otherwise (Satlas) has the eleven bands of Landsat 8 and 9.
        sensor = "TM" if "_TM_" in weights or "_ETM_" in weights else "OLI"
        return [landsat_colour(b, sensor) for b in bands]
    return [{"R": "red", "G": "green", "B": "blue"}.get(b, b) for b in bands]
