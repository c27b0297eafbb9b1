"""The records that every reader of a weight file fills: tensors, storages, other contents, findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, TypeAlias, TypeVar, cast

Scalar: TypeAlias = "bool | int | float | str | None"

PARAMETER = "parameter"
BUFFER = "buffer"
ATTRIBUTE = "attribute"  # a tensor that hangs on a module without being part of its state_dict

DISTRIBUTED = "torch distributed checkpoint"
"""The format of directories that torch.distributed.checkpoint writes: archives in a row in each file."""

T = TypeVar("T")


def quick(frozen: type[T]) -> Callable[..., T]:
    """A constructor for a frozen, slotted dataclass that fills it while it is not frozen yet.

    A frozen one fills its fields eight times as slowly, which is felt in files of 200,000 tensors.
    """
    same = [(item.name, Any, field(default=item.default)) for item in fields(cast(Any, frozen))]

    def freeze(self: Any) -> None:
        self.__class__ = frozen  # allowed between classes of the same slots

    twin = make_dataclass(frozen.__name__, same, slots=True, eq=False, namespace={"__post_init__": freeze})
    return cast("Callable[..., T]", twin)


FLAG_TEXT = {
    "impossible-shape": "a shape no tensor can have",
    "beyond-storage": "reaches beyond its storage",
    "negative-view": "a negative offset or stride",
    "missing-storage": "its data is not in the file",
    "short-storage": "its data is shorter than declared",
    "long-storage": "its data is longer than declared",
    "odd-storage-name": "its storage has a name that points elsewhere",
    "two-dtypes": "its storage is read as two different dtypes",
    "unknown-dtype": "a dtype that is not known",
    "duplicate-name": "its name occurs more than once",
    "sparse": "sparse: values and indices are separate",
    "nested": "a nested tensor",
    "quantised": "quantized: integers with scale and zero point",
    "subclass": "a tensor subclass; the inner tensors hold the data",
    "no-storage": "saved without data (meta tensor)",
    "non-persistent": "a buffer that state_dict() leaves out",
    "by-name": "a buffer by its name",
    "flat-slice": "its values are slices of flat shards",
    "attributes": "carries Python attributes",
    "conjugate": "the conjugate of what is stored",
    "negated": "the negative of what is stored",
    "code-payload": "a separate pickle, not opened",
    "no-numbers": "texts, dates or records: torch has no such dtype",
    "external": "its data is in another file",
    "big-endian": "stored with the high byte first",
}
"""Every flag a tensor can carry, in words."""

DAMAGE = frozenset(
    (
        *("impossible-shape", "beyond-storage", "negative-view", "missing-storage", "short-storage", "long-storage"),
        *("odd-storage-name", "two-dtypes", "unknown-dtype", "duplicate-name"),
    )
)
"""The flags which say that the file is damaged or forged."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the file declares it.

    `path` are the keys from the root, as text; `shape` and `strides` count elements; `offset` counts bytes into the
    storage; `nbytes` is what the elements need, not what the file spends. `role` is None when the file does not say.
    `quantizer` is the scheme of a quantized tensor, with the scale and the zero point of a whole one.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] | None = None
    offset: int = 0
    nbytes: int = 0
    numel: int = 0
    storage: str = ""
    storage_nbytes: int = 0
    device: str = ""
    role: str | None = None
    requires_grad: bool | None = None
    flags: tuple[str, ...] = ()
    quantizer: str = ""

    @property
    def name(self) -> str:
        """The keys joined by dots, as the file spells them. Not escaped."""
        return ".".join(self.path)

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two entries that are the same tensor: the same elements of one storage, read in the same way."""
        if not self.storage:
            return (self.path,)
        flipped = "conjugate" in self.flags, "negated" in self.flags
        return (self.storage, self.offset, self.shape, self.strides, self.dtype, flipped)

    @property
    def damaged(self) -> bool:
        """Whether a flag says that the entry cannot be true."""
        return not DAMAGE.isdisjoint(self.flags)


@dataclass(frozen=True, slots=True)
class StorageEntry:
    """Where the bytes of one storage lie: `length` bytes in `file`, from `position` on.

    `located` tells how to take `position`: as it is ("data"), as that of a zip's local header ("zip-stored",
    "zip-deflated"), as that of `packed` bytes of UTF-8 whose characters are the bytes ("text"), or not at all ("", the
    bytes cannot be read directly; "held", they are `data`). `crc` is the zip's checksum.
    """

    key: str
    length: int
    file: str = ""
    position: int = 0
    located: str = ""
    crc: int | None = None
    packed: int = 0
    data: bytes = field(default=b"", repr=False)


new_tensor = quick(TensorEntry)
new_storage = quick(StorageEntry)


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the contents that is not a tensor, or that holds tensors.

    `kind`: dict, list, tuple, set, object, module, class, int, float, bool, str, bytes, none, same, deep. `value` is
    the scalar itself; for `same` the place where the object was shown already. `tensors` and `nbytes` count what lies
    at or under it; `children` leave tensors out and stop at a bound (`length` is the true one).
    """

    key: str
    kind: str
    value: Scalar = None
    type: str = ""
    length: int = 0
    tensors: int = 0
    nbytes: int = 0
    children: tuple[Item, ...] = ()

    def child(self, key: str) -> Item | None:
        """The child called `key`."""
        return next((item for item in self.children if item.key == key), None)


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """A module of a pickled model: its path and the class the file names for it."""

    path: tuple[str, ...]
    type: str


@dataclass(frozen=True, slots=True)
class GlobalEntry:
    """A name that unpickling would import. `called` tells whether the file also calls it."""

    module: str
    name: str
    count: int = 1
    called: bool = False
    where: str = ""
    texts: tuple[str, ...] = ()
    """Some of the texts that it is called with."""
    reduced: bool = False
    """Whether it is called itself, as functions are, and not the `__new__` of a class."""

    @property
    def spelled(self) -> str:
        """`module.name`, as the file spells it."""
        return f"{self.module}.{self.name}" if self.module else self.name


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the file a person must know. `serious`: it is damaged, forged or ambiguous."""

    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of the file that could be the model. `path` is its place from the root; `rule` says why it was found."""

    path: tuple[str, ...]
    kind: str
    rule: str
    tensors: int
    numel: int
    nbytes: int

    @property
    def name(self) -> str:
        """The keys joined by dots; empty for the root."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A wrapper's traces in the keys of the chosen branch: `segment` in `tensors` of `total` names."""

    segment: str
    source: str
    tensors: int
    total: int
    leading: bool
    example: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file as it declares itself: nothing of it was executed, no tensor was read.

    `branches[0]` is the chosen one. `root` keeps the inert nodes of the pickle for those who rewrite the file.
    `code` names what would run if it were loaded the ordinary way (a TorchScript archive's own code, for instance).
    `unlisted` are the storages, by key and bytes, that no listed tensor uses.
    """

    path: str
    format: str
    version: str = ""
    size: int = 0
    tensors: tuple[TensorEntry, ...] = ()
    storages: Mapping[str, StorageEntry] = field(default_factory=dict)
    tree: Item = Item("", "none")
    modules: tuple[ModuleEntry, ...] = ()
    globals: tuple[GlobalEntry, ...] = ()
    findings: tuple[Finding, ...] = ()
    branches: tuple[Branch, ...] = ()
    wrappers: tuple[Wrapper, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    code: str = ""
    unlisted: tuple[tuple[str, int], ...] = ()
    root: object = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {self.format}, {len(self.tensors):,} tensors, {self.size:,} bytes>"

    def _repr_html_(self) -> str:
        """How a notebook shows it: as `summary FILE` does."""
        from modelprobe.checkpoint.answers.summary import summarize_weights

        return summarize_weights(self)._repr_html_()

    @property
    def damaged(self) -> bool:
        """Whether anything says that the file is damaged, forged or ambiguous."""
        return any(finding.serious for finding in self.findings) or any(tensor.damaged for tensor in self.tensors)

    @property
    def branch(self) -> Branch | None:
        """The chosen branch, or None when the file holds no tensors."""
        return self.branches[0] if self.branches else None

    def tensors_in(self, branch: Branch) -> tuple[TensorEntry, ...]:
        """The tensors of one branch, in the file's order."""
        return tuple(entry for entry in self.tensors if entry.path[: len(branch.path)] == branch.path)


def wasted_bytes(entries: Iterable[TensorEntry]) -> int:
    """Bytes of storages that none of these tensors shows: a slice is saved with the whole tensor it was cut from."""
    shown: dict[str, dict[tuple[object, ...], int]] = {}
    held: dict[str, int] = {}
    for entry in entries:
        if entry.storage and not entry.damaged:
            shown.setdefault(entry.storage, {})[(entry.offset, entry.shape, entry.strides)] = entry.nbytes
            held[entry.storage] = entry.storage_nbytes
    return sum(max(0, held[key] - sum(parts.values())) for key, parts in shown.items())
