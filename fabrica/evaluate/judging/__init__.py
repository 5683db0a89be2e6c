"""From images to rows: of runs and of folders, for a model, its rivals and trivial answers."""
