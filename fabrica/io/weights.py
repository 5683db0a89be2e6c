"""State dicts of others: safetensors, or torch files that hold tensors alone. The one file that reads the latter."""

from __future__ import annotations

import warnings
import zipfile
from _pickle import UnpicklingError  # what torch raises for a file that holds code; nothing is unpickled here
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .scan import UnreadableError

INSIDE = ("state_dict", "autoencoder", "model", "network", "unet")  # under which a state dict may lie in a file


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU. Raises UnreadableError for a file that holds code, no tensors, or cannot be read."""
    if not path.is_file():
        raise UnreadableError("there is no such file.", "Name a .safetensors, .pt or .pth file.", str(path))
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UnreadableError(f"is no safetensors file ({error}).", "Copy it again.", str(path)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are not torch's own: refused below
            plain = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UnreadableError(
            "holds more than tensors, which would be run as code when it is read.",
            "Ask its author for safetensors, or save its state dict alone.", str(path),
        ) from error  # fmt: skip
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise UnreadableError("is no file of weights, or was cut short.", "Copy it again.", str(path)) from error
    for name in INSIDE:
        if isinstance(plain, Mapping) and isinstance(plain.get(name), Mapping):
            plain = plain[name]
            break
    if not isinstance(plain, Mapping) or not all(isinstance(v, Tensor) for v in plain.values()):
        raise UnreadableError("holds no state dict.", "Save one: torch.save(net.state_dict(), FILE)", str(path))
    return {str(k).removeprefix("module."): v for k, v in plain.items()}
