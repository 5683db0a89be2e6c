"""Sets of images: features, distances with their null, and whether they are what was asked for."""
