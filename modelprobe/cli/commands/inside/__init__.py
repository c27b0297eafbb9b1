"""Commands that look inside a run: `modelprobe diverge`, `health`."""
