"""What keeps people safe from a model: tests that a release must pass, and the gate that remembers their verdicts."""
