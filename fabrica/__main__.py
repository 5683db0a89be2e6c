"""python -m fabrica."""

from .cli.verbs import main

main()
