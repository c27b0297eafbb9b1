"""Reading a pickle without running anything in it."""
