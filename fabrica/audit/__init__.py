"""A finished run audited: privacy, shift, fairness and robustness, as verdicts that whatever lets draws go obeys."""
