"""One loop of training, its optimisers, what a checkpoint keeps, and whom its weights have seen."""
