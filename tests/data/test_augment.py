"""Turns and scalings: the same for all images of a row, exact where they can be checked, none at strength 0."""

import pytest
import torch

from fabrica.data.augment import SCALE, TURN, _moved, augmented
from fabrica.rng import Rng


def _disc(axes: int, side: int = 33) -> torch.Tensor:
    grids = torch.meshgrid(*[torch.arange(side).float() - side // 2] * axes, indexing="ij")
    return torch.stack(grids).norm(dim=0)[None, None].lt(10).float()


def test_strength_zero_changes_nothing() -> None:
    image = torch.rand(2, 1, 12, 17)
    torch.testing.assert_close(augmented({"a": image}, (), 0.0, Rng([1, 2]))["a"], image, rtol=0, atol=1e-5)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    image = torch.rand(1, 2, 16, 16)
    one, zero = torch.ones(1), torch.zeros(1)
    torch.testing.assert_close(_moved(image, zero, one, one, False), image.rot90(1, (2, 3)), rtol=0, atol=1e-4)
    volume = torch.rand(1, 1, 4, 16, 16)
    torch.testing.assert_close(_moved(volume, zero, one, one, False), volume.rot90(1, (3, 4)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_ball_stays_a_ball_of_the_scaled_size(axes: int) -> None:
    image, scale = _disc(axes), torch.tensor([1.2])
    angle = torch.tensor([0.4])
    moved = _moved(image, angle.cos() / scale, angle.sin() / scale, scale, False)
    assert float(moved.sum() / image.sum()) == pytest.approx(1.2**axes, rel=0.03)


def test_images_of_a_row_move_together_and_labels_stay_whole() -> None:
    label = (torch.rand(4, 1, 24, 20) > 0.5).float() * 2
    found = augmented({"image": label, "again": label, "label": label}, ("label",), 1.0, Rng(range(4)))
    torch.testing.assert_close(found["image"], found["again"])
    assert set(found["label"].unique().tolist()) <= {0.0, 2.0}
    assert not torch.equal(found["image"], label)
    alone = augmented({"label": label[2:3]}, ("label",), 1.0, Rng([2]))["label"]
    torch.testing.assert_close(alone, found["label"][2:3])
    assert TURN < 0.2
    assert SCALE == 0.1
