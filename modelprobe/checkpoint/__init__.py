"""Weight files, read without torch and without running anything in them."""
