"""How the miniature's weights came about: `python -m emoe.miniature.train` makes every file again, from seeds."""
