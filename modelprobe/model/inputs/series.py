"""Lists in `--input 224,256,288` and `--batch 1,8`: the inputs of each point of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelprobe.errors import BadInput
from modelprobe.model.inputs.spec import parse_input
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from modelprobe.tracing.records import TensorRef, Trace

MAX_POINTS = 64
EXAMPLES = "for example --input 224,256,288 or --input ids=1x128,1x256:int64"


@dataclass(frozen=True, slots=True)
class Series:
    """The inputs of every point, each as the texts of `--input`.

    `sizes` is the one number that differs from point to point, at `places` (input, dimension); both are empty where
    points differ in more than one number.
    """

    points: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...] = ()
    places: frozenset[tuple[int, int]] = frozenset()

    def at(self, size: int) -> tuple[str, ...]:
        """The inputs of a point of another size."""
        texts = []
        for i, spec in enumerate(map(parse_input, self.points[0])):
            shape = "x".join(str(size if (i, dim) in self.places else n) for dim, n in enumerate(spec.shape))
            texts.append((f"{spec.name}=" if spec.name else "") + shape + (f":{spec.dtype}" if spec.dtype else ""))
        return tuple(texts)


def parse_series(texts: Sequence[str]) -> Series:
    """The points of `--input` options, of which some are lists. Lists go along with each other.

    Raises BadInput for lists of different lengths, for a size given twice, and for what looks like the sizes of one
    shape.
    """
    lists = [_items(text) for text in texts]
    length = max(map(len, lists), default=1)
    for text, items in zip(texts, lists, strict=True):
        if len(items) not in (1, length):
            raise BadInput(f"--input {text!r} lists {len(items)} shapes, another input {length}", EXAMPLES)
    points = tuple(tuple(items[i if len(items) > 1 else 0] for items in lists) for i in range(length))
    if len(set(points)) != length:
        raise BadInput("--input lists the same shape twice", "sizes are separated by x, not by commas: 1x3x224x224")
    return _varying(points)


def parse_batches(text: str | None) -> tuple[int, ...]:
    """`1,8` -> (1, 8); nothing for None. Raises BadInput for what is no list of positive whole numbers."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 40 for part in parts):
        raise BadInput(f"--batch {text!r} is not a number of examples, nor a list of them", "for example --batch 1,8")
    found = tuple(map(int, parts))
    if min(found) < 1:
        raise BadInput(f"--batch {text}: a batch has at least one example", "for example --batch 8")
    if len(set(found)) != len(found) or len(found) > MAX_POINTS:
        raise BadInput(f"--batch {text}: the same batch twice, or more than {MAX_POINTS}", "for example --batch 1,8")
    return found


def _items(text: str) -> list[str]:
    """`ids=1x128,1x256:int64` -> `ids=1x128:int64`, `ids=1x256:int64`."""
    if "," not in text:
        return [text]
    name, equals, rest = text.rpartition("=")
    shapes, colon, dtype = rest.partition(":")
    parts = [part.strip() for part in shapes.split(",")]
    if not all(parts):
        raise BadInput(f"--input {text!r}: a size is missing beside a comma", EXAMPLES)
    if len(parts) > MAX_POINTS:
        raise BadInput(f"--input lists {len(parts)} shapes; {MAX_POINTS} at most", EXAMPLES)
    if len(parts) in (3, 4) and parts[0] in ("1", "3") and all(part.isdigit() for part in parts):
        raise BadInput(f"--input {text!r} looks like one shape", f"its sizes are separated by x: {'x'.join(parts)}")
    return [f"{name}{equals}{part}{colon}{dtype}" for part in parts]


def _varying(points: tuple[tuple[str, ...], ...]) -> Series:
    """The series of these points, with the one number that differs where there is one."""
    shapes = [[parse_input(text).shape for text in point] for point in points]
    if len({tuple(map(len, point)) for point in shapes}) != 1:
        return Series(points)
    everywhere = [(i, dim) for i, shape in enumerate(shapes[0]) for dim in range(len(shape))]
    places = frozenset((i, dim) for i, dim in everywhere if len({point[i][dim] for point in shapes}) > 1)
    values = [{point[i][dim] for i, dim in places} for point in shapes]
    if any(len(value) != 1 for value in values):
        return Series(points)
    return Series(points, tuple(value.pop() for value in values), places)


def lost_batch(trace: Trace, batch: int) -> tuple[Note, ...]:
    """A warning where no output has an axis of the batch that was asked for: the model may take it for another axis."""

    def holds_batch(refs: Sequence[TensorRef]) -> bool:
        return any(size and size % batch == 0 for ref in refs for size in ref.shape)

    if batch == 1 or not trace.outputs or holds_batch(trace.outputs) or not holds_batch(trace.inputs):
        return ()
    text = f"No output has an axis of {batch}, the batch: the first axis of the input may be no batch of examples."
    return (Note(text, Level.WARNING),)
