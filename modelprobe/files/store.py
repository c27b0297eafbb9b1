"""What was worked out once, kept for later runs: a file each in the cache directory; the least recently used go first.

A file is whole or not there: it is written under another name and renamed, and carries a checksum. Nothing here imports
more than the standard library, since a stored answer is to cost less than importing what would work it out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

STORE_MAGIC = b"modelprobe store 1 "
MAX_BYTES = 256 * 2**20
"""What the store may take; after that the least recently used entries go."""

KEPT_AFTER_A_CLEANING = 0.8
LEFT_OVER_SECONDS = 3600
"""After so long, a file under a temporary name is what a killed process left."""

PACKAGES = ("modelprobe", "torch", "torchvision", "timm")
PLUGIN_GROUP = "[modelprobe.formulas]"
CODE_SUFFIXES = (".py", ".so", ".pyd", ".dll", ".dylib")
VARIABLES = ("ATEN_", "DNNL_", "KMP_", "MKL_", "MODELPROBE_", "OMP_", "ONEDNN_", "PYTORCH_", "TIMM_", "TORCH")
"""How the names of those environment variables begin that an answer may depend on."""

OUR_OWN = ("MODELPROBE_CACHE_DIR", "MODELPROBE_STORE", "MODELPROBE_DEBUG", "MODELPROBE_QUIET")

FileState = tuple[str, int, int]
"""Path, size and time of the last change in nanoseconds."""


class StoreDamagedError(Exception):
    """An entry that is not what was written, or of another release; the text says which."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry without its content. `about` is what was said of it, `used` seconds since 1970."""

    path: Path
    about: Mapping[str, Any]
    nbytes: int
    used: float


def cache_directory() -> Path:
    """Where this user's index and store are: MODELPROBE_CACHE_DIR, else where the system keeps caches."""
    if told := os.environ.get("MODELPROBE_CACHE_DIR"):
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_cache_dir("modelprobe", appauthor=False))


def is_store_on() -> bool:
    """Whether anything is kept and looked up: MODELPROBE_STORE=0 turns it off."""
    return os.environ.get("MODELPROBE_STORE", "1") not in ("", "0")


def stored_line(made: int) -> str:
    """What is said of an answer that was worked out at that time, in seconds since 1970."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made))
    return f"answered from the store (recorded {when}); --fresh records anew"


class Store:
    """The entries of a directory. `limit` is in bytes."""

    def __init__(self, folder: Path | None = None, limit: int = MAX_BYTES) -> None:
        self.folder = folder if folder is not None else cache_directory() / "store"
        self._limit = limit

    def get(self, key: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes] | None:
        """What was said of an entry, and its content; None where there is none.

        Raises StoreDamagedError for one that cannot be used, which `put` replaces.
        """
        text = _key_text(key)
        path = self._path(text)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head, body = _head_and_body(data)
        if head.get("key") != text:  # a file under another's name
            raise StoreDamagedError("it is of another question")
        with suppress(OSError):  # a cache that cannot be written can still be read
            os.utime(path)
        return head["about"], body

    def put(self, key: Mapping[str, Any], about: Mapping[str, Any], body: bytes) -> str:
        """Keep an entry. Returns why that cannot be done, else ""."""
        text = _key_text(key)
        path = self._path(text)
        head = json.dumps({"key": text, "about": {**about, "made": int(time.time())}}, separators=(",", ":")).encode()
        rest = head + b"\n" + body
        temporary = self.folder / f".{os.urandom(8).hex()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(STORE_MAGIC + _digest(rest).encode() + b"\n" + rest)
                temporary.replace(path)
            finally:
                with suppress(OSError):
                    temporary.unlink()
            self._make_room()
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror or error}"
        return ""

    def digest(self, key: Mapping[str, Any]) -> str:
        """What tells an entry from every other content under its key; "" where there is none. It is not read whole."""
        try:
            with self._path(_key_text(key)).open("rb") as file:
                head = file.readline(len(STORE_MAGIC) + 80)
        except OSError:
            return ""
        return head[len(STORE_MAGIC) :].strip().decode("ascii", "replace") if head.startswith(STORE_MAGIC) else ""

    def entries(self) -> list[StoredEntry]:
        """The entries that can be read, the most recently used first."""
        found = []
        for path, nbytes, used in self._files():
            try:
                head, _ = _head_and_body(path.read_bytes())
            except (OSError, StoreDamagedError):
                head = {"about": {"what": "damaged"}}
            found.append(StoredEntry(path, head["about"], nbytes, used))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove every entry; how many there were. Raises OSError for one that cannot be removed."""
        paths = [path for path, *_ in self._files()]
        for path in paths:
            with suppress(FileNotFoundError):
                path.unlink()
        return len(paths)

    def _path(self, text: str) -> Path:
        return self.folder / f"{_digest(text.encode('utf-8', 'surrogatepass'))[:32]}.mps"

    def _files(self) -> list[tuple[Path, int, float]]:
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as listing:
            for entry in listing:
                with suppress(FileNotFoundError):  # another process has removed it
                    state = entry.stat()
                    if entry.name.endswith(".mps"):
                        found.append((Path(entry.path), state.st_size, state.st_mtime))
                    elif entry.name.endswith(".tmp") and state.st_mtime < time.time() - LEFT_OVER_SECONDS:
                        Path(entry.path).unlink()
        return found

    def _make_room(self) -> None:
        files = self._files()
        total = sum(nbytes for _, nbytes, _ in files)
        if total <= self._limit:
            return
        for path, nbytes, _ in sorted(files, key=lambda file: file[2]):
            if total <= self._limit * KEPT_AFTER_A_CLEANING:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            total -= nbytes


def _key_text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def _head_and_body(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What is said of an entry, and its content. Raises StoreDamagedError."""
    first, _, rest = data.partition(b"\n")
    if not first.startswith(STORE_MAGIC):
        raise StoreDamagedError("it is of another release, or no entry")
    if first[len(STORE_MAGIC) :] != _digest(rest).encode():
        raise StoreDamagedError("its checksum is wrong")
    head, _, body = rest.partition(b"\n")
    found: dict[str, Any] = json.loads(head)
    return found, body


# What answers depend on


def surroundings() -> dict[str, Any] | None:
    """What an answer about a library's model depends on beside the question; None where that cannot be told.

    The releases and the files (path, size, time) of modelprobe, torch, torchvision, timm and of packages with formulas,
    none of which is imported; Python, the processor and environment variables.
    """
    installed = installed_state()
    if installed is None:
        return None
    named = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES) and name not in OUR_OWN
    }
    return {"installed": installed, "python": sys.version, "variables": named, "processor": _processor()}


@cache
def installed_state() -> str | None:
    """A digest of the releases and files of `PACKAGES` and of the formulas that other packages bring."""
    releases, plugins = _distributions()
    lines = list(releases)
    try:
        for name in (*PACKAGES, *sorted(plugins)):
            lines.append(name)
            lines += (f"{path}\t{size}\t{changed}" for path, size, changed in sorted(_code_of(name)))
    except (OSError, ImportError, ValueError, AttributeError):
        return None
    return _digest("\n".join(lines).encode("utf-8", "surrogatepass"))


def _distributions() -> tuple[list[str], set[str]]:
    """The records of `PACKAGES` on the path as lines, with their states; top-level packages that bring formulas."""
    lines: list[str] = []
    plugins: set[str] = set()
    for folder in dict.fromkeys(sys.path):
        for place in _records_in(folder):
            name = place.name
            if name.partition("-")[0].lower() in PACKAGES:
                lines += (
                    f"{path}\t{size}\t{changed}"
                    for path, size, changed in _states_of_files(place, ("METADATA", "PKG-INFO"))
                )
            with (
                suppress(OSError, UnicodeDecodeError),
                (place / "entry_points.txt").open(encoding="utf-8") as file,
            ):
                text = file.read()
                if PLUGIN_GROUP in text:
                    lines.append(f"{place}\t{text}")
                    plugins |= set(_named_packages(text))
    return lines, plugins


def _named_packages(text: str) -> Iterator[str]:
    """The top-level packages that the entry points of our group name."""
    inside = False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.strip() == PLUGIN_GROUP
        elif inside and "=" in line:
            yield line.partition("=")[2].strip().partition(":")[0].partition(".")[0]


def _records_in(folder: str) -> list[Path]:
    """The directories that say what is installed."""
    try:
        with os.scandir(folder or ".") as listing:
            found = sorted(entry.path for entry in listing if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:
        return []
    return [Path(path) for path in found]


def _states_of_files(folder: Path, names: Iterable[str]) -> Iterator[FileState]:
    for name in names:
        with suppress(OSError):
            yield state_of(folder / name)


def state_of(path: Path) -> FileState:
    """Path, size and time of a file. Raises OSError."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _code_of(package: str) -> list[FileState]:
    """The code of a package, and of modelprobe its data too. Nothing where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    if not spec.submodule_search_locations:
        return [state_of(Path(spec.origin))] if spec.origin and Path(spec.origin).is_file() else []
    found: list[FileState] = []
    for folder in spec.submodule_search_locations:
        _add_code(folder, found, of_data=package == "modelprobe")
    return found


def _add_code(folder: str, found: list[FileState], of_data: bool) -> None:
    with os.scandir(folder) as listing:
        for entry in listing:
            name = entry.name
            if name.endswith(CODE_SUFFIXES) or (of_data and not name.endswith(".pyc") and entry.is_file()):
                state = entry.stat()
                found.append((entry.path, state.st_size, state.st_mtime_ns))
            elif "." not in name and name not in ("__pycache__", "include") and entry.is_dir():
                _add_code(entry.path, found, of_data)


def _processor() -> str:
    """The model and the abilities of the processor, on which kernels depend; elsewhere than on Linux its kind."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return os.uname().machine if hasattr(os, "uname") else sys.platform
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return _digest("\n".join([*told, str(cores)]).encode())[:16]


def _digest(content: bytes) -> str:
    import hashlib  # loads OpenSSL, which commands without a store do not need

    return hashlib.sha256(content).hexdigest()
