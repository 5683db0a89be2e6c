"""How weights move: matrices by orthogonalised momentum (Muon, Jordan et al. 2024), everything else by AdamW.

Networks that play against one another (a generator and its critic) take AdamW's steps without momentum: what a rival
did some steps ago misleads, and the game circles (Gidel et al. 2019; Huang et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

THIN = 16  # rows or columns below which a matrix has too few directions for AdamW to starve any
MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, which sends singular values in (0, 1] to about .7 to 1.2
SIZE = 0.2  # root mean square of an update at learning rate 1: about that of AdamW's (Liu et al. 2025)
BETAS, EPSILON, DECAY = (0.9, 0.99), 1e-8, 1e-4
RIVALS = (0.0, 0.9)  # betas of networks that play against one another
RATE, RIVALS_RATE = 3e-3, 5e-4  # where a recipe says no learning rate


def optimisers(
    module: nn.Module,
    groups: Mapping[str, Iterable[nn.Parameter]],
    kind: str = "auto",
    learning_rate: float | None = None,
) -> dict[str, Muon]:
    """One for each group of the module's parameters; `kind`: muon, adamw, or auto, which is adamw where groups are
    rivals.
    """
    rivals = len(groups) > 1
    turned = matrices(module) if kind == "muon" or (kind == "auto" and not rivals) else set[nn.Parameter]()
    rate = learning_rate or (RIVALS_RATE if rivals else RATE)
    return {name: Muon(p, turned, rate, RIVALS if rivals else BETAS) for name, p in groups.items()}


def matrices(module: nn.Module) -> set[nn.Parameter]:
    """Weights of dense layers and of convolutions that mix channels; not those that a parametrisation makes.

    Not the ends of a network either (`networks.blocks.mark_ends`): a head that starts at zero grows too slowly by steps
    that are as small in every direction.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    inner = (m for m in module.modules() if isinstance(m, kinds) and not getattr(m, "is_end", False))
    layers = (m for m in inner if getattr(m, "groups", 1) == 1)
    weights = (m._parameters.get("weight") for m in layers)
    return {w for w in weights if w is not None and min(len(w), w[0].numel()) >= THIN}


class Muon(torch.optim.Optimizer):
    """One learning rate for all: matrices take steps whose singular values are all one, of the size that AdamW's have.

    A kernel is the matrix (outputs, positions * inputs). What orthogonal steps are for: a gradient's few large
    directions do not starve the many small ones (Bernstein and Newhouse 2024).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], matrices: set[nn.Parameter], learning_rate: float,
        betas: tuple[float, float] = BETAS,
    ) -> None:  # fmt: skip
        known = [p for p in parameters if p.requires_grad]  # what an adapter has frozen is left alone
        groups = [{"params": [p for p in known if (p in matrices) == turned]} for turned in (False, True)]
        super().__init__(groups, {"lr": learning_rate})
        self.rate, self.betas = learning_rate, betas

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        rest, matrices = self.param_groups
        self._adamw([p for p in rest["params"] if p.grad is not None], rest["lr"])
        for p in matrices["params"]:
            if p.grad is not None:
                self._orthogonal(p, matrices["lr"])

    def _adamw(self, parameters: list[Tensor], learning_rate: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        first, second, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        gradients = [p.grad for p in parameters if p.grad is not None]
        adamw(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=DECAY,
            eps=EPSILON,
            maximize=False,
        )

    def _orthogonal(self, p: Tensor, learning_rate: float) -> None:
        if not self.state[p]:
            self.state[p] = {"momentum": torch.zeros_like(p)}
        momentum, gradient = self.state[p]["momentum"], p.grad
        assert gradient is not None
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).movedim(
            1, -1
        )  # Nesterov; columns in any order, so in that of the layout
        matrix = ahead.flatten(1)
        update = (orthogonalised(matrix) * (SIZE * max(matrix.shape) ** 0.5)).reshape(ahead.shape).movedim(-1, 1)
        p.mul_(1 - learning_rate * DECAY).add_(update, alpha=-learning_rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of U S V^T, without its decomposition: Newton and Schulz's iteration as a quintic.

    The iterates are P X with P a polynomial of X X^T, so that all but the first and the last product are of the short
    side's square. Float32; singular values below 1e-3 of the largest stay small.
    """
    x = matrix.float()
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-12)
    square = x @ x.T
    step = product = _polynomial(square)
    for _ in range(STEPS - 1):
        square = step @ square @ step
        step = _polynomial(square)
        product = step @ product
    turned: Tensor = product @ x
    return (turned.T if tall else turned).to(matrix.dtype)


def _polynomial(square: Tensor) -> Tensor:
    """What the quintic multiplies X with, given X X^T."""
    linear, cubic, quintic = COEFFICIENTS
    found = torch.addmm(square, square, square, beta=cubic, alpha=quintic)
    found.diagonal().add_(linear)
    return found
