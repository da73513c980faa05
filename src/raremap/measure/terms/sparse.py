"""Which terms of a loss cannot be measured on point labels."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from raremap.measure.terms import Terms
from raremap.measure.terms.term import Term

REGIONAL = tuple(t.model_fields["kind"].default for t in get_args(get_args(Terms)[0]) if t.regional)
"""Kinds of the terms that need areas or boundaries."""


def regional_terms(loss: BaseModel) -> list[str]:
    """Kinds of the regional terms in the options of a loss, with any weight but 0, in their order.

    They are found as terms, or by their kinds as names of weights or keys of a mapping, however deep.
    """
    found = _within(loss)
    return list(dict.fromkeys(found))


def _within(value: Any) -> list[str]:
    if isinstance(value, Term):
        return [value.kind] if value.regional else []  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict):
        named = [k for k, v in value.items() if k in REGIONAL and v and not isinstance(v, Term | str | bool)]
        return named + [kind for v in value.values() for kind in _within(v)]
    if isinstance(value, list | tuple):
        return [kind for v in value for kind in _within(v)]
    return []
