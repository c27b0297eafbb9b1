"""The commands, a file for each, in a folder for each panel of `--help`."""
