"""Figures of arrays: what paired images, masks, doses, answers and readers are measured by."""
