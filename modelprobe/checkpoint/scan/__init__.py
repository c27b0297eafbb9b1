"""What a file could run when it is loaded: pickles and code at whatever place, and what was not read."""
