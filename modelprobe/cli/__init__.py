"""The command line: the app, its shared options, and one file for each command."""
