"""Nested keys, as YAML files have them: read, overridden, laid over each other, and what is wrong told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from raremap.errors import ConfigError, nearest


def read_keys(path: str | Path, what: str = "experiment") -> dict[str, Any]:
    """The keys of a YAML file, which errors call `what`; raises `ConfigError`."""
    import yaml

    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read ({error}); give a YAML text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{what} {path} is not valid YAML{where}: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{what} {path} holds {type(data).__name__}, expected keys such as scenes, labels, model"
        )
    return data


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; a choice of another `kind` replaces the whole section, and so do `terms` of a loss."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        same_kind = (
            isinstance(below, dict)
            and isinstance(value, dict)
            and value.get("kind", below.get("kind")) == below.get("kind")
        )
        out[key] = merge(below, value) if same_kind and isinstance(below, dict) and key != "terms" else value
    return out


def keys_of(text: str) -> dict[str, Any]:
    """Nested keys of overrides with spaces between; within brackets and quotes a space is part of the value.

    >>> keys_of("loss={focal: 0.5, iou: 0.5} train.steps=9")
    {'loss': {'focal': 0.5, 'iou': 0.5}, 'train': {'steps': 9}}
    """
    data: dict[str, Any] = {}
    for part in _split(text):
        override(data, part)
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


def override(data: dict[str, Any], text: str) -> None:
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
    put(data, path.strip(), parsed, f"override '{text}'")


def put(data: dict[str, Any], path: str, value: Any, source: str) -> None:
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


def explain(error: ValidationError, source: str, options: type[BaseModel]) -> str:
    """The first fault in one line, with the nearest key that `options` know where a key is unknown."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'; {nearest(where[-1], _known(where[:-1], options))}{more}"
    if first["type"] == "missing":
        return f"{source}: '{key}' is missing; it is needed{more}"
    if first["type"] == "union_tag_not_found":
        models = [m for m in _models_at(where, options) if "kind" in m.model_fields]
        kinds = dict.fromkeys(kind for m in models for kind in get_args(m.model_fields["kind"].annotation))
        return f"{source}: '{key}.kind' is missing; give it as well: {', '.join(kinds)}{more}"
    reason = first["msg"].removeprefix("Value error, ")
    got = (
        ""
        if isinstance(first.get("input"), dict) or first["type"] == "value_error"
        else f", found {first.get('input')!r}"
    )
    at = f"{key}: " if key else ""
    return f"{source}: {at}{reason[0].lower() + reason[1:]}{got}{more}"


def _known(path: Sequence[str], options: type[BaseModel]) -> set[str]:
    """Keys that the section at `path` accepts, from the options' own fields."""
    models = _models_at(path, options)
    return {name for model in models for name in model.model_fields} | ({"preset"} if not path else set())


def _models_at(path: Sequence[str], options: type[BaseModel]) -> list[Any]:
    """Options that the section at `path` may be of."""
    models: list[Any] = [options]
    for part in path:
        below: list[Any] = []
        for model in models:
            if part in model.model_fields:
                below += _models_in(model.model_fields[part].annotation)
        models = below or models
    return models


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]
