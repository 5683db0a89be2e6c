"""The user's own network as an embedding: an ONNX file (the extra `onnx`), declared by its hash. A graph, no code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .embedding import BINS, Embedding, Picture, planes, resized

Array = NDArray[np.float64]
PLAIN_SIDE = 224  # pixels, where the network leaves its input's sides open


def from_onnx(path: Path) -> dict[str, Embedding]:
    """{name with hash: embedding}. Planes are resized (smoothed first), scaled so that the sets' usual values lie in 0
    to 1, and repeated over the network's channels; the mean over planes is the feature vector.

    Raises ValueError for a file that is no ONNX graph, or one that does not take (rows, channels, y, x) and give (rows,
    features).
    """
    if not path.is_file():
        raise ValueError(
            f"There is no network at {path}. Export yours: torch.onnx.export(network, example, 'network.onnx')"
        )
    content = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises its own kinds, of no common base
        raise ValueError(f"{path} is no ONNX graph that can be run: {str(error).splitlines()[0][:200]}") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4:
        raise ValueError(f"{path} takes {[i.shape for i in inputs]}, expected one input (rows, channels, y, x).")
    channels, *sides = (
        n if isinstance(n, int) and n > 0 else d for n, d in zip(shape[1:], (1, PLAIN_SIDE, PLAIN_SIDE), strict=True)
    )

    def embedding(picture: Picture, width: float) -> Array:
        features = []
        for plane, inside in planes(picture):
            given = resized((plane - np.percentile(plane[inside], 1)) / (BINS * width), sides).astype(np.float32)
            (out, *_) = session.run(None, {inputs[0].name: np.repeat(given[None, None], channels, axis=1)})
            features.append(np.asarray(out, np.float64).reshape(-1))
        return np.asarray(np.mean(features, axis=0))

    digest = hashlib.sha256(content).hexdigest()
    return {f"{path.stem} ({digest[:12]})": embedding}
