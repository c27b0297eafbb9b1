"""What does listing a weight file cost, as a whole process? `python -m tests.benchmarks.listing [--pairs N] [--diff]`.

Files of 2,000 tensors in three formats, of 1.5 GB and of 1, 4 and 10 GB; files of 200,000 tensors; the same over HTTP;
with `--diff`, two files of 10 GB compared. Their values are holes, so they take no room on disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from modelprobe.checkpoint.open import open_checkpoint
from tests.benchmarks.__main__ import line
from tests.benchmarks.processes import MIB, compare, median_of, modelprobe, python, run, spread

KINDS = ("zip", "legacy", "safetensors")
GB = 10**9
BAR = "at most +0.35 s, under 80 MiB"


def made(folder: Path, kind: str, count: int, total: int) -> Path:
    """A file of a kind, with so many tensors and bytes. Another process writes it: it needs torch, and what a child
    uses at its peak is at least what its parent uses."""
    path = folder / f"{count}_{total}.{kind}"
    run([sys.executable, "-m", "tests.checkpoint.sparse", kind, str(path), str(count), str(total)])
    return path


def local(folder: Path, pairs: int) -> Iterator[str]:
    """`summary FILE` against importing what prints it, in turn."""
    for total in (1_500_000_000, GB, 4 * GB, 10 * GB):
        for kind in KINDS:
            path = made(folder, kind, 2_000, total)
            found = compare(modelprobe("summary", str(path)), python("import typer, rich"), pairs)
            peak = median_of(found.command, "peak") / MIB
            cpu = statistics.median(found.differences("cpu"))
            text = f"+{spread(found.differences('wall'))} s, CPU +{cpu:.2f} s, {peak:.0f} MiB"
            yield line(f"{kind}, 2,000 tensors, {total / GB:g} GB", text, BAR)
            path.unlink()


def many(folder: Path) -> Iterator[str]:
    """Files of 200,000 tensors, three runs each."""
    for kind in KINDS:
        path = made(folder, kind, 200_000, 200_000 * 1024)
        runs = [run(modelprobe("summary", str(path))) for _ in range(3)]
        times = spread([found.wall for found in runs])
        text = f"{times} s, CPU {median_of(runs, 'cpu'):.2f} s, {median_of(runs, 'peak') / MIB:.0f} MiB"
        yield line(f"{kind}, 200,000 tensors", text, "under 5 s, under 300 MiB")
        path.unlink()


class Ranges(BaseHTTPRequestHandler):
    """Serves one file by ranges, and counts."""

    path_served = Path()
    requests = sent = 0

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        total = self.path_served.stat().st_size
        start, stop = (int(first), min(int(last), total - 1)) if first else (max(0, total - int(last)), total - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop}/{total}")
        self.send_header("Content-Length", str(stop - start + 1))
        self.end_headers()
        with self.path_served.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start + 1))
        type(self).requests += 1
        type(self).sent += stop - start + 1

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(path: Path) -> Iterator[tuple[type[Ranges], str]]:
    """A server on this machine for one file."""
    handler = type("Handler", (Ranges,), {"path_served": path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}/{path.name}"
        server.shutdown()


def remote(folder: Path) -> Iterator[str]:
    """What a server is asked for."""
    for total in (1_500_000_000, 10 * GB):
        for kind in KINDS:
            path = made(folder, kind, 2_000, total)
            with served(path) as (handler, url):
                found = open_checkpoint(url)
            assert len(found.tensors) == 2_000
            text = f"{handler.requests} requests, {handler.sent / 1e6:.3f} MB"
            yield line(f"{kind} over HTTP, 2,000 tensors, {total / GB:g} GB", text, "at most 3 requests, 1 MB")
            path.unlink()


def compared(folder: Path) -> Iterator[str]:
    """Two files of 10 GB that differ in one element; the second in another format."""
    a, b = made(folder, "zip", 2_000, 10 * GB), made(folder, "safetensors", 2_000, 10 * GB)
    with b.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\x80\x3f")
    report = folder / "diff.json"
    found = run(modelprobe("diff", str(a), str(b), "-o", str(report)), expected=1)
    changed = json.loads(report.read_text())["counts"]
    text = f"{found.wall:.0f} s, CPU {found.cpu:.0f} s, {found.peak / MIB:.0f} MiB"
    yield line(f"diff of two files of 10 GB: {changed}", text, "bounded memory")


def main() -> None:
    """Print every figure with its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.listing", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how many pairs of runs (default 7)")
    parser.add_argument("--diff", action="store_true", help="only the comparison of two files of 10 GB")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="listing-"))
    try:
        print(line("figure", "median (range)", "bar"))
        parts = [compared(folder)] if given.diff else [local(folder, given.pairs), many(folder), remote(folder)]
        for part in parts:
            for row in part:
                print(row, flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
