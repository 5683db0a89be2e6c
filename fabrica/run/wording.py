"""Do drawn masks show what words asked for? Read from the masks, fact by fact, beside the words of other slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.cases import Prepared
from ..data.findings import described, facts_of
from ..evaluate.metrics.wording import obeyed
from ..evaluate.result import Row
from .directions import chosen
from .stage import PreparedStage

Mask = NDArray[np.bool_]


def obeyed_rows(
    own: tuple[str, str, str], affine: NDArray[np.float64], truth: Mask, masks: Mapping[str, Mask]
) -> list[Row]:
    """Rows (case, patient, what) of each mask (z, y, x) that somebody drew or read: the share of facts obeyed in slices
    in which something was asked for, and the same with the words of other slices, which is chance.
    """
    asked, rows = [facts_of(described(plane, affine)) for plane in truth], list[Row]()
    ill = [k for k, one in enumerate(asked) if one["count"] != "no"]
    for by, mask in masks.items():
        read = [facts_of(described(plane, affine)) for plane in mask]
        share = obeyed([read[k] for k in ill], [asked[k] for k in ill])
        if share is None:
            continue
        rows.append(Row(*own, by, "facts obeyed", share))
        turned = [ill[(i + len(ill) // 2) % len(ill)] for i in range(len(ill))]
        chance = obeyed([read[k] for k in ill], [asked[k] for k in turned])
        if by.startswith("model") and chance is not None and len(ill) > 1:
            rows.append(Row(*own, by.replace("model", "words of other slices"), "facts obeyed", chance))
    return rows


def words_obeyed(ready: PreparedStage, case: Prepared, x: Tensor) -> list[Row]:
    """Of a stage that is told findings in words and draws the mask that they speak of; x (draws, C, z, y, x)."""
    fields, rows = ready.signature.x, list[Row]()
    for name, label in ready.job.described.items():
        if label not in {f.name for f in fields} or label not in case.tensors:
            continue
        drawn = chosen(fields, x[:1], [label])[0].argmax(0).numpy() > 0
        own = (case.name, case.case.patient, f"facts of {name}")
        truth = case.tensors[label][0].numpy() > 0.5
        rows += obeyed_rows(own, case.grid.affine.numpy(), truth, {"model": drawn})
    return rows
