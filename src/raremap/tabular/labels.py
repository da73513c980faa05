"""Which rows are positive: the label column as booleans, or one line that says why it cannot be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raremap.errors import LabelError, nearest
from raremap.tabular.columns import FEW, category, coded


@dataclass(frozen=True)
class Truth:
    """Booleans of the rows that are `labelled [n]`, the positive value as text, and what is to be told."""

    positive: np.ndarray
    labelled: np.ndarray
    name: str
    notes: tuple[str, ...] = ()


def read_truth(table: pa.Table, label: str, positive: str | None, where: str) -> Truth:
    """The label column of a table: booleans, 0 and 1, or any values of which `positive` is named.

    Two classes only: with `positive` all other values are negative. Rows without a label are left out. Raises
    `LabelError` for a column that is missing, constant, or of other values without `positive`.
    """
    names = table.column_names
    if label not in names:
        raise LabelError(f"{where} has no label column '{label}'; {nearest(label, names)}")
    values, index = coded(table[label])
    texts = [category(v) for v in values]
    count: Counter[str] = Counter()
    for text, rows in zip(texts, np.bincount(index, minlength=len(texts)).tolist(), strict=True):
        count[text] += rows
    there = sorted(t for t, rows in count.items() if t and rows)
    if not there:
        raise LabelError(f"{where}: the label column '{label}' is empty")
    shown = ", ".join(f"'{t}'" for t in there[:6]) + (" …" if there[6:] else "")
    if len(there) == 1:
        raise LabelError(
            f"{where}: the label column '{label}' holds {shown} only; a model needs rows of both classes"
        )
    notes = []
    if positive is None:
        lower = {t.lower() for t in there}
        if len(there) > FEW:
            raise LabelError(
                f"{where}: the label column '{label}' holds {len(there):,} different values ({shown}), expected two classes; "
                "is it the label? If one of them is looked for, name it with --positive"
            )
        if lower not in ({"0", "1"}, {"true", "false"}):
            least = min(count[t] for t in there)
            rarest = " or ".join([f"--positive {t!r}" for t in there if count[t] == least][:2])
            raise LabelError(
                f"{where}: the label column '{label}' holds {shown}, expected 0 and 1 or true and false; "
                f"say which value is looked for, such as {rarest}"
            )
        wanted = next(t for t in there if t.lower() in ("1", "true"))
    else:
        wanted = category(positive)
        match = [t for t in there if t == wanted] or [t for t in there if t.lower() == wanted.lower()]
        if not match:
            raise LabelError(
                f"{where}: the label column '{label}' has no value '{positive}', it holds {shown}"
            )
        wanted = match[0]
        if len(there) > 2:
            others = [t for t in there if t != wanted]
            notes.append(
                f"label '{label}' has {len(there)} values: '{wanted}' is positive, all others ({', '.join(others[:5])}{' …' if others[5:] else ''}) are negative"
            )
    text_of = np.array(texts, object)[index]
    labelled = text_of != ""
    if not labelled.all():
        notes.append(f"{int((~labelled).sum()):,} rows have no label and were left out")
    return Truth((text_of == wanted)[labelled], labelled.astype(bool), wanted, tuple(notes))
