"""The questions about weight files: one file for each."""
