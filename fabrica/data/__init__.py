"""From Image to batches: cohorts, splits, preparation, a memory-mapped store, and simulated patients."""
