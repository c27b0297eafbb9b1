"""Nothing in a weight file ever runs, or imports: every dangerous name, in every way, in every container.

An audit hook of the interpreter watches the whole time: it sees imports, processes, sockets and unpickling whatever the
way that leads there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.checkpoint.payloads import NAMES, ways, wrapped

WATCHED = """
import json, sys
from contextlib import suppress
from pathlib import Path

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import ProbeError

folder = Path(sys.argv[1])
seen, watching = [], False
RANK = ["none", "harmless", "unknown", "dangerous"]
HARMFUL = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect",
           "pickle.find_class", "exec", "compile", "ctypes.dlopen", "import", "shutil.rmtree", "os.remove",
           "marshal.loads")


def hook(event, arguments):
    if watching and event in HARMFUL:
        seen.append([event, str(arguments)[:200]])
    elif watching and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append([event, str(arguments)[:200]])


def look(path):
    with suppress(ProbeError):
        summarize_weights(open_checkpoint(path)).report()
    with suppress(ProbeError):
        found = scan(path)
        found.report()
        return max((RANK.index(entry.trust.value) for entry in found.imports), default=0)
    return 0


paths = sorted(folder.iterdir())
for path in paths[:40]:
    look(path)  # the modules of modelprobe itself are loaded now
before = set(sys.modules)
sys.addaudithook(hook)
watching = True
verdicts = {path.name: RANK[look(path)] for path in paths}
watching = False
print(json.dumps({"seen": seen, "modules": sorted(set(sys.modules) - before), "verdicts": verdicts}))
"""


def watched(folder: Path, names: list[str]) -> dict:
    """Write a file for each payload, and look at all of them in a process that is watched."""
    files = folder / "files"
    files.mkdir()
    for index, name in enumerate(names):
        for way, raw in ways(*name.split(" ")):
            for container, data in wrapped(raw):
                (files / f"{index:03}-{way.replace(' ', '_')}-{container}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(files)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["seen"] == []
    assert found["modules"] == []
    assert not (folder / "SENTINEL").exists()
    return found


@pytest.mark.zoo
def test_29_30_31_nothing_runs_whatever_is_named(tmp_path):
    found = watched(tmp_path, NAMES[:: len(NAMES) // 12])
    assert len(found["verdicts"]) >= 12 * 13 * 6
    assert set(found["verdicts"].values()) <= {"dangerous", "unknown"}


@pytest.mark.slow
def test_30_every_name_is_found(tmp_path, record_property):
    """In a key, in a state, popped again, behind the end: what would be called or could be reached is found."""
    found = watched(tmp_path, NAMES)["verdicts"]
    counts = Counter(found.values())
    record_property("figure payloads", {"names": len(NAMES), "files": len(found), **counts})
    assert set(counts) <= {"dangerous", "unknown"}
    assert counts["dangerous"] > 0.95 * len(found)
