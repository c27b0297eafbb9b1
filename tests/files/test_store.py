"""The store: what was put in comes out whole or not at all, whoever else writes, is killed, or fills the directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelprobe.files.store import LEFT_OVER_SECONDS, Store, StoreDamagedError
from tests.samples import ROOT

KEY = {"kind": "flops", "target": "net"}


def only_file(store: Store) -> Path:
    (found,) = store.folder.glob("*.mps")
    return found


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "store")
    assert store.get(KEY) is None
    assert store.digest(KEY) == ""
    assert store.put(KEY, {"target": "net"}, b"\n\x00whole\n") == ""
    about, body = store.get(KEY) or ({}, b"")
    assert body == b"\n\x00whole\n"
    assert about["target"] == "net"
    assert store.get({**KEY, "target": "other"}) is None
    before = store.digest(KEY)
    store.put(KEY, {}, b"changed")
    assert store.digest(KEY) != before
    assert [entry.nbytes for entry in store.entries()] == [only_file(store).stat().st_size]
    assert store.clear() == 1
    assert store.get(KEY) is None


def test_a_damaged_entry_is_told_from_a_whole_one_and_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, {}, b"x" * 40)
    path = only_file(store)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bad in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(StoreDamagedError):
                store.get(KEY)
    assert store.entries()[0].about == {"what": "damaged"}
    store.put(KEY, {}, b"new")
    assert (store.get(KEY) or ({}, b""))[1] == b"new"


def test_an_entry_under_the_name_of_another_is_no_answer(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    store.put(KEY, {}, b"of net")
    other.put({**KEY, "target": "other"}, {}, b"of other")
    only_file(store).write_bytes(only_file(other).read_bytes())
    with pytest.raises(StoreDamagedError, match="another question"):
        store.get(KEY)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=10_000)
    for number in range(8):
        store.put({"number": number}, {}, b"x" * 1000)
        os.utime(store._path(f'{{"number":{number}}}'), (number, number))
    store.get({"number": 0})  # used again
    for number in range(8, 12):
        store.put({"number": number}, {}, b"x" * 1000)
    left = [number for number in range(12) if store.get({"number": number}) is not None]
    assert {0, 8, 9, 10, 11} <= set(left)
    assert not {1, 2, 3} & set(left)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000


def test_a_directory_that_cannot_be_written_is_said_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    assert "cannot be written" in store.put(KEY, {}, b"x")
    assert store.get(KEY) is None
    assert store.entries() == []


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.tmp", tmp_path / ".young.tmp"
    for path in (old, young):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - LEFT_OVER_SECONDS - 5,) * 2)
    Store(tmp_path).put(KEY, {}, b"x")
    assert not old.exists()
    assert young.exists()


STATES = """
import importlib, os, sys
from pathlib import Path
from modelprobe.files.store import installed_state

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))

def state():
    importlib.invalidate_caches()
    print(installed_state.__wrapped__())

def package(name, version):
    (folder / name / "models").mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text("")
    (folder / name / "models" / "resnet.py").write_text("width = 64")
    record(name, version)

def record(name, version, points=""):
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n")
    if points:
        (info / "entry_points.txt").write_text(points)

for name in ("torch", "torchvision", "timm"):
    package(name, "1.0")
state(); state()                                                                     # 0 and 1: nothing changed
file = folder / "torchvision" / "models" / "resnet.py"
os.utime(file, ns=(1, 1)); state()                                                   # 2: touched
file.write_text("width = 128"); os.utime(file, ns=(1, 1)); state()                   # 3: another size, the same time
(folder / "timm" / "extra.so").write_bytes(b"x"); state()                            # 4: a new file
(folder / "torch-1.0.dist-info").rename(folder / "torch-1.1.dist-info"); state()     # 5: another release
record("plugged", "1.0", "[modelprobe.formulas]\\nplugged = plugged:rule\\n"); state()   # 6: a package with formulas
(folder / "plugged.py").write_text("rule = 1"); state()                              # 7: whose module is there now
(folder / "plugged.py").write_text("rule = 12"); state()                             # 8: and changes
record("harmless", "1.0", "[console_scripts]\\nx = x:x\\n"); state()             # 9: no formulas: as before
"""


def test_every_change_of_what_is_installed_is_seen_without_importing_it(tmp_path: Path) -> None:
    line = [sys.executable, "-c", STATES + "assert not {'torch', 'timm', 'plugged'} & set(sys.modules)", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    states = done.stdout.split()
    assert states[0] == states[1]
    assert len(set(states[1:9])) == 8
    assert states[8] == states[9]


CROWD = """
import os, random, signal, sys, time
from pathlib import Path
from modelprobe.files.store import Store, StoreDamagedError

folder, people, kills = Path(sys.argv[1]), 200, 50
def body(number, turn):
    return (b"%d:" % number) * (500 + 37 * turn)

def work(seed):
    chance = random.Random(seed)
    store = Store(folder, limit=200_000)
    while not (folder / "stop").exists():
        number = chance.randrange(8)
        if chance.random() < 0.4:
            assert store.put({"number": number}, {"number": number}, body(number, chance.randrange(40))) == ""
        else:
            held = store.get({"number": number})  # raises for one that is not whole
            if held is not None:
                assert held[0]["number"] == number and set(held[1].split(b":")) == {b"%d" % number, b""}, held[0]
        if chance.random() < 0.01:
            store.entries()
    os._exit(0)

children = []
for seed in range(people):
    child = os.fork()
    if child == 0:
        try:
            work(seed)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    children.append(child)
time.sleep(2)
chance = random.Random(0)
killed = set(chance.sample(children, kills))
for child in killed:
    os.kill(child, signal.SIGKILL)
    time.sleep(0.02)
(folder / "stop").touch()
codes = {child: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
print(sum(codes[child] == 0 for child in codes if child not in killed), sum(codes[child] == -9 for child in killed))
"""


@pytest.mark.slow
def test_two_hundred_processes_of_which_fifty_are_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CROWD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["150", "50"], done.stderr
    store = Store(tmp_path)
    assert 1 <= len(store.entries()) <= 8
    for entry in store.entries():
        assert entry.about.get("what") != "damaged"
    assert len(list(tmp_path.glob("*.tmp"))) <= 50  # what the killed left, at most
