"""Networks that pictures are compared by: a classifier of the real ones, and one that has seen natural images alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Learned on the real training pictures: whether a draw is of the class that was asked for, and a space for distances."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = (1, 16, 32, 64, 64)
        steps = itertools.pairwise(sizes)
        self.body = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in steps]
        )
        self.head = nn.Linear(64, classes)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x).mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(x))
        return found


def classifier(work: Path, train: dict[str, NDArray[Any]]) -> Classifier:
    """Taught by the real training pictures; kept in `work`."""
    torch.manual_seed(0)
    net, file = Classifier(int(train["labels"].max()) + 1), work / "classifier.safetensors"
    if file.is_file():
        net.load_state_dict(load_file(file))
        return net.eval()
    images, labels = tensor(train["images"]), torch.from_numpy(train["labels"]).long()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(12):
        for index in torch.randperm(len(images)).split(64):
            shift = [int(v) for v in torch.randint(-3, 4, (2,))]
            optimiser.zero_grad()
            F.cross_entropy(net(images[index].roll(shift, (2, 3))), labels[index]).backward()
            optimiser.step()
    save_file(net.state_dict(), file)
    return net.eval()


def tensor(images: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(images, np.float32))[:, None] / 255


def resnet(data: Path) -> Callable[[Tensor], Tensor]:
    """ResNet-20 of natural images (CIFAR-10), read without running code; pictures are shrunk to 32 x 32."""
    weights = torch.load(data / "weights/resnet_cifar10/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    w = {k.removeprefix("module."): v for k, v in weights["state_dict"].items()}

    def normal(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"]
        )

    def features(x: Tensor) -> Tensor:
        x = F.interpolate(x, (32, 32), mode="area").expand(-1, 3, -1, -1)
        x = (x - torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).reshape(
            1, 3, 1, 1
        )
        x = F.relu(normal(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
        for layer in (1, 2, 3):
            for block in range(3):
                stride, name = 2 if layer > 1 and block == 0 else 1, f"layer{layer}.{block}"
                y = F.relu(normal(F.conv2d(x, w[f"{name}.conv1.weight"], padding=1, stride=stride), f"{name}.bn1"))
                y = normal(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
                if stride == 2:  # the shortcut without weights: every other pixel, channels padded
                    wider = y.shape[1] - x.shape[1]
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, wider // 2, wider - wider // 2))
                x = F.relu(x + y)
        return x.mean((2, 3))

    return features
