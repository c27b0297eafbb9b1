"""Directories of output that can be resumed.

`modelprobe.json` in it says which command line it belongs to. Each piece of work ends with its own record, written
last: what has one is complete, and is not done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput, one_line
from modelprobe.files.atomic import atomic_write

MANIFEST = "modelprobe.json"
RECORD = "done.json"
LONGEST_NAME = 80

_PLAIN_CHARACTERS = re.compile(r"[^\w.#\[\]-]+", re.ASCII)


class CannotWriteError(BadInput):
    """A file cannot be written: no other one will fare better, so the whole run ends."""


@dataclass
class Folder:
    """An output directory. `resumed` tells that the same command line began it before."""

    path: Path
    resumed: bool = False
    manifest: str = ""
    """What says which command line it belongs to; written before the first file."""
    _fresh: list[Path] = field(default_factory=list, repr=False)
    """What was made since a piece was last complete, in order: files, and directories before what is in them."""
    _begun: bool = False

    def try_out(self) -> None:
        """Make the directory and take it away again: what is wrong with the place is told before the work."""
        self.write(MANIFEST, self.manifest)
        self.undo()

    def write(self, name: str, data: bytes | str) -> Path:
        """Write a file of this command's at `name` below the directory, whole or not at all.

        Where that fails, what belongs to no complete piece of work is taken away again. Raises CannotWriteError.
        """
        place = self.path / name
        if not self.resumed and not self._begun and name != MANIFEST:
            self._begun = True
            self.write(MANIFEST, self.manifest)
        try:
            for parent in reversed(place.parents):
                if not parent.is_dir():
                    parent.mkdir()
                    self._fresh.append(parent)
            existed = place.exists()
            atomic_write(place, data, force=True)
            if not existed:
                self._fresh.append(place)
        except BadInput as error:
            self.undo()
            raise CannotWriteError(error.message, error.hint) from error
        except OSError as error:
            self.undo()
            raise CannotWriteError(f"cannot write {place}: {one_line(error)}", "choose another place") from error
        return place

    def undo(self) -> None:
        """Remove what was made since a piece was last complete."""
        for made in reversed(self._fresh):
            with contextlib.suppress(OSError):  # not empty, or gone
                made.rmdir() if made.is_dir() else made.unlink()
        self._fresh.clear()
        self._begun = False

    def record_of(self, piece: str, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was recorded of a completed piece of work; None when it was not, or was about something else."""
        try:
            found = json.loads((self.path / piece / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or found.get("about") != self._about(about):
            return None
        files = found.get("files")
        there = isinstance(files, list) and all((self.path / piece / str(name)).is_file() for name in files)
        return found if there else None

    def complete(self, piece: str, about: Mapping[str, Any], files: list[str], values: Any, **more: Any) -> None:
        """Record a piece of work as complete: `files` are in the directory `piece`, `values` are its results."""
        text = json.dumps({"about": self._about(about), "files": files, "values": values, **more}, allow_nan=True)
        self.write(f"{piece}/{RECORD}", text)
        self._fresh.clear()

    def _about(self, about: Mapping[str, Any]) -> Any:
        """With the command line: under --force, records of another one may stand in the same place."""
        key = hashlib.sha256(self.manifest.encode()).hexdigest()[:16]
        return json.loads(json.dumps({**about, "command": key}))


def open_folder(path: Path, question: Mapping[str, Any], force: bool = False) -> Folder:
    """The directory `path` for the work that `question` describes; it is made when the first file is written.

    One with files of others in it is refused without `force`; with it new files are put beside them, and only files of
    the same names are replaced. One that the same question began is gone on with, unless `force` asks for all anew;
    where a file that the question is about has changed, everything is looked at anew. Raises BadInput.
    """
    try:
        exists, is_folder = path.exists() or path.is_symlink(), path.is_dir()
        there = sorted(entry.name for entry in path.iterdir()) if is_folder else []
    except OSError as error:
        raise BadInput(f"cannot use the directory {path}: {one_line(error)}", "choose another with -o") from error
    if exists and not is_folder:
        raise BadInput(f"{path} is a file", "-o names a directory for the images; the report goes to stdout")
    known = _manifest(path) if MANIFEST in there else None
    asked = json.loads(json.dumps(question))
    before = known.get("question") if known is not None else None
    same = not force and before == asked
    changed = isinstance(before, dict) and _typed(before) == _typed(asked)  # a file that it is about
    if there and not same and not force and not changed:
        if known is not None:
            raise BadInput(f"{path} holds the images of another command line", "choose another -o, or --force")
        raise BadInput(
            f"the directory {path} exists and holds {_others_in(there)}",
            "choose another -o; --force puts the images beside them, and replaces files of the same names",
        )
    folder = Folder(path, same, json.dumps({"schema": "modelprobe.folder/1", "question": question}, indent=1))
    if not exists:
        folder.try_out()
    return folder


def _typed(question: Mapping[str, Any]) -> dict[str, Any]:
    """The question without the state of the files that are named in it."""
    return {key: value[0] if isinstance(value, list) and value else value for key, value in question.items()}


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == "modelprobe.folder/1" else None


def _others_in(names: list[str]) -> str:
    return f"{len(names)} other files, such as {names[0]}" if len(names) > 1 else f"another file, {names[0]}"


def file_name(name: str, taken: set[str]) -> str:
    """A name for a file or directory after a layer or an image: no separators, not too long, not `taken` yet.

    `taken` gets it, in lower case: some file systems do not tell cases apart.
    """
    plain = _PLAIN_CHARACTERS.sub("_", name).strip(".") or "_"
    if len(plain) > LONGEST_NAME:
        plain = f"{plain[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    chosen, number = plain, 2
    while chosen.lower() in taken:
        chosen, number = f"{plain}-{number}", number + 1
    taken.add(chosen.lower())
    return chosen
