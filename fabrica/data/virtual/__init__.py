"""Simulated patients: heads with folds, skull, lesions and time, of which everything is known."""

from .anatomy import Patient
from .patients import VirtualCohort, VirtualMember
from .scan import CONTRASTS, Simulated, simulate

__all__ = ["CONTRASTS", "Patient", "Simulated", "VirtualCohort", "VirtualMember", "simulate"]
