"""Figures of time and memory. None is answered by a run that was kept, unless a benchmark says so."""

import os

os.environ.setdefault("MODELPROBE_STORE", "0")
