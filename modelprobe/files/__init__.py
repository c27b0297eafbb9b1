"""Writing files and directories of output without losing anything."""
