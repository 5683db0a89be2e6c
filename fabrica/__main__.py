"""python -m fabrica."""

from .cli import main

main()
