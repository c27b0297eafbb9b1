"""A user's own model: importing its file, finding it there, and saying what went wrong in it."""
