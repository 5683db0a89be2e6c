"""A recipe run: prepared, trained, drawn, judged, its needs foretold."""
