"""What a private training spends, by Opacus's accountant of privacy loss random variables (Gopi et al. 2021).

Holds for Poisson samples and Gaussian noise, which `private` makes. The extra `privacy`, imported here alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

LEAST = 0.3  # of the clip: with less noise nothing is promised that anybody would want


@dataclass(frozen=True)
class Spent:
    """(epsilon, delta) of so many steps at a sampling rate, with noise of `noise` times the clipping norm."""

    epsilon: float
    delta: float
    noise: float
    rate: float
    steps: int
    accountant: str


def spent(noise: float, rate: float, steps: int, delta: float) -> Spent:
    """Raises ValueError where Opacus is not installed."""
    accountants, version = _opacus()
    accountant = accountants.PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epsilon = float(accountant.get_epsilon(delta=delta))
    return Spent(epsilon, delta, noise, rate, steps, f"PRV, Opacus {version}")


def noise_for(epsilon: float, rate: float, steps: int, delta: float) -> Spent:
    """The least noise, to a hundredth, that spends at most epsilon. Raises ValueError as `spent`."""
    low, high = LEAST, 64.0  # from much noise downwards: the less noise, the more memory its accountant takes
    while (found := spent(high, rate, steps, delta)).epsilon > epsilon:
        low, high = high, 4 * high
        if high > 1e5:
            raise ValueError(
                f"No noise gives epsilon {epsilon:g} in {steps} steps. Allow more epsilon, or fewer steps."
            )
    while high / low > 1.01 and high > 1.02 * LEAST:
        middle = (low * high) ** 0.5
        tried = spent(middle, rate, steps, delta)
        low, high, found = (low, middle, tried) if tried.epsilon <= epsilon else (middle, high, found)
    return found


def _opacus() -> tuple[Any, str]:
    try:
        from opacus import __version__, accountants
    except ImportError as error:
        raise ValueError(
            'A private training needs Opacus. Type: pip install -e ".[privacy]" -c constraints.txt'
        ) from error
    return accountants, str(__version__)
