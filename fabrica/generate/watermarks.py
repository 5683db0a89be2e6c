"""Drawn images with a mark, and the mark looked for in any images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import io
from ..contracts import Image
from ..data.cohort import find
from ..io import UnreadableError
from ..safeguards.watermark import Found, look_for, marked

SURE = 4.0  # deviations below which an image is too small, or too fine already, to carry the mark through much


def with_mark(image: Image, key: bytes) -> tuple[Image, str]:
    """The image with the mark in each channel, and what has to be said; labels and fields stay as they are."""
    if image.meaning.kind != "intensity":
        return image, ""
    channels = [marked(channel.double().numpy(), key) for channel in image.data]
    weak = min(look_for(channel, key).z for channel in channels) < SURE
    data = torch.stack([torch.from_numpy(channel) for channel in channels]).to(image.data.dtype)
    name = image.meaning.name
    return replace(image, data=data), f"its {name} is too small to carry a mark that lasts" if weak else ""


@dataclass(frozen=True)
class Looked:
    """An image of a folder, and how strongly it follows the key."""

    case: str
    contrast: str
    found: Found


def look_in(folder: Path, key: bytes) -> list[Looked]:
    """Every intensity image of a folder or file; raises UnreadableError where there is none."""
    if folder.is_file():
        return [_looked(folder.name, "", io.read_image(folder), key)]
    found = []
    for member in find(folder).members:
        for name in member.contrasts():
            try:
                image = member.load([name]).images.get(name)
            except UnreadableError:
                continue
            if image is not None and image.meaning.kind == "intensity":
                found.append(_looked(member.name, name, image, key))
    return found


def _looked(case: str, contrast: str, image: Image, key: bytes) -> Looked:
    return Looked(case, contrast, look_for(image.data[0].double().numpy(), key))
