"""One module a command: `add_to` declares its options, `run` does it and returns the exit code."""
