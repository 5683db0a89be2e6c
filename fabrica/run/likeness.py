"""What a stage answers of one patient beside the truth: a few figures, for comparing stages with one another."""

from __future__ import annotations

import numpy as np

from ..contracts import Field
from ..data.cases import prepare_case
from ..data.cohort import Member
from ..data.grid import foreground
from ..evaluate.metrics.overlap import dice
from ..evaluate.metrics.pixel import mae, psnr, ssim
from ..io import UnreadableError
from .answering import Answering

MOST_DB = 100.0  # of an answer that is the truth itself


def likeness(answering: Answering, field: Field, shown: Member, true: Member) -> dict[str, float] | None:
    """Of one draw of a field of x, from what is shown, beside the truth, on the model's grid and scale.

    {psnr (dB), ssim, mae} inside the patient of an intensity, {dice} of all labels together; None where the case cannot
    be used.
    """
    try:
        prepared, x = answering.drawn(shown, 1, lambda _: None)
        anchor = next(iter(prepared.case.images))
        truth = prepare_case(true, [anchor, field.name], anchor, answering.preparation).tensors[field.name][0]
    except (UnreadableError, KeyError, ValueError):
        return None
    before = answering.signature.x[: answering.signature.x.index(field)]
    start = sum(f.channels for f in before)
    drawn = x[0, start : start + field.channels]
    if drawn.shape[1:] != truth.shape:
        return None
    if field.kind == "label":
        found = (drawn.argmax(0) if field.channels > 1 else drawn[0] > 0.5) > 0
        return {"dice": float(dice(found.numpy(), (truth > 0.5).numpy()))}
    inside = foreground(truth).numpy()
    if not inside.any():
        return None
    a, b = drawn[0].double().numpy(), truth.double().numpy()
    planes = [z for z in range(len(a)) if inside[z].any()]
    alike = np.mean([float(ssim(a[z], b[z], data_range=1.0, mask=inside[z])) for z in planes])
    exact = float(psnr(a, b, data_range=1.0, mask=inside))
    return {"psnr": min(exact, MOST_DB), "ssim": float(alike), "mae": float(mae(a, b, mask=inside))}
