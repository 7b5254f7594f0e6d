"""The one exception that means: the input is wrong, and here is how to mend it."""


class EmoeError(Exception):
    """Something the user can mend. The message is one sentence or two: what is wrong, where, what to do."""
