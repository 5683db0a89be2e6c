"""Laws of operators and noises."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import (
    Noise,
    Operator,
)
from ..physics.algebra import LinearOperator
from ..rng import Rng


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> per row: the real inner product under which maps from real to complex have adjoints."""
    return (a.conj() * b).real.flatten(1).sum(1)


def check_operator(operator: Operator, x: Tensor) -> None:
    """Linearity, adjoint, gradient, rows. x (B, C, *axes) with B >= 2, of the dtype that the operator is meant for."""
    name = type(operator).__name__
    if isinstance(operator, LinearOperator):
        _check_linear(operator, x, name)
    probe = x.detach().requires_grad_()
    y = operator(probe)
    (pull,) = torch.autograd.grad(y.real.sum() if y.is_complex() else y.sum(), probe)
    assert pull.dtype == x.dtype, f"{name}: gradient is {pull.dtype}, x is {x.dtype}"
    assert torch.isfinite(torch.view_as_real(pull) if pull.is_complex() else pull).all(), (
        f"{name}: gradient is not finite"
    )
    index = torch.tensor([1, 0, 1])
    torch.testing.assert_close(operator.rows(index)(x[index]), operator(x)[index], msg=f"{name}.rows: rows mix")


def _check_linear(operator: LinearOperator, x: Tensor, name: str) -> None:
    assert not list(operator.parameters()), f"{name} has unknowns; the gradient of a LinearOperator would miss them"
    other, y = torch.randn_like(x), operator.apply_to(x)
    v = torch.randn_like(y)
    back = operator.adjoint(v)
    assert back.dtype == x.dtype, f"{name}.adjoint gives {back.dtype}, x is {x.dtype}"
    assert back.shape == x.shape, f"{name}.adjoint gives {tuple(back.shape)}, x is {tuple(x.shape)}"
    both = 2 * y - 3 * operator.apply_to(other)
    torch.testing.assert_close(
        operator.apply_to(2 * x - 3 * other), both, rtol=1e-4, atol=1e-4, msg=f"{name} is not linear"
    )
    torch.testing.assert_close(
        _inner(y, v), _inner(x, back), rtol=1e-3, atol=1e-3, msg=f"{name}.adjoint is not the adjoint"
    )


def check_noise(noise: Noise, mean: Tensor, draws: int = 2000) -> None:
    """Bartlett's identities along a random direction u: E[u.score] = 0, E[(u.score)^2] = E[u.Hessian u]; mean (1, ...).

    The first notices a wrong location, the second a wrong spread.
    """
    many = mean.expand(draws, *mean.shape[1:]).clone().requires_grad_()
    y = noise.draw(many.detach(), Rng(range(draws)))
    u = torch.randn_like(mean)
    (score,) = torch.autograd.grad(noise.nll(y, many).sum(), many, create_graph=True)
    slope = (score * u).flatten(1).sum(1)
    (bend,) = torch.autograd.grad(slope.sum(), many)
    for what, gap in (("location", slope), ("spread", slope**2 - (bend * u).flatten(1).sum(1))):
        z = float((gap.mean() / (gap.std() / draws**0.5)).detach().abs())
        assert z < 5, f"{type(noise).__name__}: draw and nll disagree about {what}, {z:.1f} standard errors"
