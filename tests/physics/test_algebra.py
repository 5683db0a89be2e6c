"""The algebra of operators and the laws of noise, on physics small enough to read."""

import torch
from torch import Tensor

from fabrica.contracts import Measurement, Noise, Operator
from fabrica.physics.algebra import Chain, LinearOperator
from fabrica.rng import Rng
from fabrica.testing import check_noise, check_operator


class Mask(LinearOperator):
    per_row = ("mask",)

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def apply_to(self, x: Tensor) -> Tensor:
        return x * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask


class Fourier(LinearOperator):
    def apply_to(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x.to(torch.complex64), norm="ortho")

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(y, norm="ortho").real


class Squared(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


class Gaussian(Noise):
    def __init__(self, deviation: float, told: float | None = None) -> None:
        super().__init__()
        self.deviation, self.told = deviation, told or deviation

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        return mean + self.deviation * rng.normal(*mean.shape[1:])

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        return ((y - mean) ** 2 / (2 * self.told**2)).flatten(1).sum(1)


def test_laws_of_products() -> None:
    x, masks = torch.randn(3, 2, 6, 8), (torch.rand(3, 1, 6, 8) > 0.5).float()
    for operator in (
        Mask(masks),
        Fourier(),
        Fourier() @ Mask(masks),
        Mask(masks[:1]) @ Mask(masks),
        Chain(Squared(), Mask(masks)),
    ):
        check_operator(operator, x)
    torch.testing.assert_close(Fourier().H(Fourier()(x)), x, rtol=1e-4, atol=1e-5)
    assert Fourier().H.H(x).is_complex()


def test_a_wrong_adjoint_is_caught() -> None:
    class Wrong(Mask):
        def adjoint(self, y: Tensor) -> Tensor:
            return 1.1 * y * self.mask

    try:
        check_operator(Wrong(torch.ones(2, 1, 4, 4)), torch.randn(2, 1, 4, 4))
    except AssertionError as error:
        assert "adjoint" in str(error)
    else:
        raise AssertionError("a wrong adjoint passed")


def test_noise_laws_and_a_planted_fault() -> None:
    check_noise(Gaussian(0.3), torch.rand(1, 2, 3))
    try:
        check_noise(Gaussian(0.3, told=0.5), torch.rand(1, 2, 3))
    except AssertionError as error:
        assert "spread" in str(error)
    else:
        raise AssertionError("a wrong spread passed")


def test_measurements_by_row() -> None:
    masks = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    x = torch.randn(2, 1, 4, 4)
    measured = Measurement(Mask(masks)(x), Mask(masks), Gaussian(1.0))
    some = measured.rows(torch.tensor([1, 1, 0]))
    torch.testing.assert_close(some.nll(x[[1, 1, 0]]), torch.zeros(3))
    assert float(some.nll(x[[0, 1, 1]])[0]) > 0
