"""Simulated patients: heads with folds, skull, lesions and time, of which everything is known."""

from .anatomy import Patient
from .heart import VirtualHeart, VirtualHearts
from .patients import VirtualCohort, VirtualMember
from .scan import CONTRASTS, Simulated, simulate

__all__ = [
    "CONTRASTS",
    "Patient",
    "Simulated",
    "VirtualCohort",
    "VirtualHeart",
    "VirtualHearts",
    "VirtualMember",
    "simulate",
]
