"""What figures may be taken for: the ledger of checks, what metrics see, claims declared before results."""
