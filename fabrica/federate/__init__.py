"""One model learned at many sites: our process at either end, Flower between them in an environment of its own."""
