"""Where the time of a forward pass goes: torch's profiler, mapped to the recorded operators and their modules."""
