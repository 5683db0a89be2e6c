"""What a critic is taught, and what it teaches: shared by every family that has one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..contracts import Condition
from ..networks.discriminator import Discriminator
from .losses import feature_matching, gradient_penalty, relativistic_critic, relativistic_generator


def teach(
    critic: Discriminator, real: Tensor, fake: Tensor, condition: Condition, *, penalty: float = 1.0,
    form: Callable[[Tensor, Tensor], Tensor] = relativistic_critic,
) -> dict[str, Tensor]:  # fmt: skip
    """The critic's own terms: which is real, and R1 + R2 where `penalty` is not 0. Nothing reaches whoever made the
    images.
    """
    real, fake = real.detach().requires_grad_(penalty > 0), fake.detach().requires_grad_(penalty > 0)
    logits = critic(real, condition), critic(fake, condition)
    terms = {"critic": form(*logits)}
    if penalty:
        terms["penalty"] = 0.5 * penalty * (gradient_penalty(logits[0], real) + gradient_penalty(logits[1], fake))
    return terms


def fool(
    critic: Discriminator, real: Tensor, fake: Tensor, condition: Condition, *, matching: float = 0.0,
    form: Callable[[Tensor, Tensor], Tensor] = relativistic_generator,
) -> dict[str, Tensor]:  # fmt: skip
    """The generator's terms: to be taken for real, and to look alike to the critic where `matching` is not 0."""
    (logits, seen), (other, also) = critic.with_features(real, condition), critic.with_features(fake, condition)
    terms = {"adversarial": form(logits.detach(), other)}
    if matching:
        terms["features"] = matching * feature_matching(seen, also)
    return terms
