"""Families whose features of images and of texts lie in one space."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .roles import Condition, Family


class Matcher(Family):
    """Features of images are what it samples; those of texts, told from words alone, are near where both say the
    same: the cosine between them is how well they match.
    """

    @abstractmethod
    def worded(self, condition: Condition, rows: int) -> Tensor:
        """(B, features) of the texts of a condition; raises ValueError where it was built without any."""
