"""What goes on inside a run: where two runs part, and what is wrong with one."""
