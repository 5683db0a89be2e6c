"""A published image encoder as an embedding, from a folder as `transformers` saves it (the extra `encoders`):
safetensors and a configuration; no code of others, no download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ...deliver.record import hash_of
from .embedding import BINS, Embedding, Picture, planes, resized

Array = NDArray[np.float64]
WEIGHTS, CONFIG, SEEN = "model.safetensors", "config.json", "preprocessor_config.json"
EXTRA = 'Install it: pip install -c constraints.txt -e ".[encoders]"'
USUAL = 224  # pixels a side, where the configuration says none


def is_published(folder: Path) -> bool:
    """Whether a folder holds a network of others rather than a run."""
    return (folder / CONFIG).is_file() and not (folder / "recipe.yaml").is_file()


def from_folder(folder: Path) -> dict[str, Embedding]:
    """{name with hash: embedding}: the pooled answer of the encoder, or the mean over its places, averaged over planes.

    Planes are resized to the encoder's side, scaled so that the sets' usual values lie in 0 to 1, repeated over its
    channels and normalised as its `preprocessor_config.json` says. Raises ValueError for weights that are no
    safetensors, code of others, or a network that reads no images.
    """
    config = _json(folder / CONFIG)
    if "auto_map" in config:
        raise ValueError(f"{folder} needs code of its own, which is not run. Export it as ONNX: --embedding FILE")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS}. Save it so: model.save_pretrained(FOLDER), in one file of safetensors"
        )
    network = _opened(folder)
    vision = getattr(network, "vision_model", network)
    own = config.get("vision_config", config)
    side = own.get("image_size", USUAL)
    sides = [int(side), int(side)] if isinstance(side, int) else [int(n) for n in side]
    channels = int(own.get("num_channels", 3))
    seen = _json(folder / SEEN) if (folder / SEEN).is_file() else {}
    mean, spread = (torch.tensor(_each(seen.get(k), v, channels)) for k, v in (("image_mean", 0.5), ("image_std", 0.5)))

    @torch.inference_mode()
    def embedding(picture: Picture, width: float) -> Array:
        features = []
        for plane, inside in planes(picture):
            given = resized((plane - np.percentile(plane[inside], 1)) / (BINS * width), sides)
            x = torch.from_numpy(given).float().expand(channels, *sides)
            x = (x - mean[:, None, None]) / spread[:, None, None]
            features.append(_pooled(vision(pixel_values=x[None])).double().numpy())
        return np.asarray(np.mean(features, axis=0))

    try:
        embedding(Picture("", "", np.eye(16), np.ones((16, 16), bool), (1.0, 1.0)), 1 / BINS)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} is no encoder of images: {str(error).splitlines()[0][:200]}") from error
    return {f"{folder.name} ({hash_of(folder / WEIGHTS)[:12]})": embedding}


def _opened(folder: Path) -> Any:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ValueError(f"transformers, which {folder} needs, is not installed. {EXTRA}") from error
    try:
        network = AutoModel.from_pretrained(
            str(folder.resolve()), local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be read by transformers: {str(error).splitlines()[0][:200]}") from error
    return network.eval()


def _pooled(answer: Any) -> torch.Tensor:
    """(features,) of one image."""
    pooled = getattr(answer, "pooler_output", None)
    if pooled is not None:
        flat: torch.Tensor = pooled.reshape(-1)
        return flat
    last: torch.Tensor = answer.last_hidden_state
    return last.mean(1)[0] if last.ndim == 3 else last.mean((2, 3))[0]


def _each(said: Any, usual: float, channels: int) -> list[float]:
    if said is None:
        return [usual] * channels
    values = [float(v) for v in (said if isinstance(said, list) else [said])]
    if len(values) not in (1, channels):
        raise ValueError(f"{SEEN} has {len(values)} numbers of normalisation, the encoder {channels} channels.")
    return values * (channels // len(values))


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no JSON ({error}). Copy the folder again.") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds no mapping. Copy the folder again.")
    return plain
