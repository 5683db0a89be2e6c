"""What a private training spends: known values of the accountant, and the least noise that keeps a promise."""

import pytest

from fabrica.learning.accounting import noise_for, spent


def test_a_known_value() -> None:
    """sigma 1, a hundredth of the patients a step, 1,000 steps, delta 1e-5: 1.84 by PRV (2.10 by Renyi divergences)."""
    found = spent(1.0, 0.01, 1000, 1e-5)
    assert found.epsilon == pytest.approx(1.838, abs=0.02)
    assert found.accountant.startswith("PRV, Opacus ")


def test_the_least_noise_that_keeps_a_promise() -> None:
    for epsilon, rate, steps in ((8.0, 0.1, 200), (1.0, 0.05, 100), (3.0, 1.0, 5)):
        found = noise_for(epsilon, rate, steps, 1e-5)
        assert 0.9 * epsilon < found.epsilon <= epsilon
        assert spent(found.noise * 0.97, rate, steps, 1e-5).epsilon > epsilon * 0.98
