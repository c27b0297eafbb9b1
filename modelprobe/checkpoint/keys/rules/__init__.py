"""The rules of a repair, a file for each family. Importing this enters them all, in the order in which they run."""

from modelprobe.checkpoint.keys.rules import wrappers, missing, naming, spelling, shapes, structure  # noqa: F401, I001 - the order is that of the rules
from modelprobe.checkpoint.keys.rules import projections, numbers  # noqa: F401
