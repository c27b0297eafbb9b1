"""A file behind an address is listed with few requests, and a server that misbehaves is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.answers.convert import convert_weights
from modelprobe.checkpoint.answers.diff import diff_weights
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.bytes.http import HttpSource
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import BadInput
from tests.checkpoint.hostile import entry, safetensors


class Server(BaseHTTPRequestHandler):
    """Serves `content` with ranges; `mood` makes it misbehave."""

    content = b""
    mood = ""
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append({"path": self.path, **{key.lower(): value for key, value in self.headers.items()}})
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/file")
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        if self.mood == "gone":
            self.send_error(404)
            return
        self.answer(self.headers["Range"].removeprefix("bytes="))

    def answer(self, wanted: str) -> None:
        total = len(self.content)
        first, _, last = wanted.partition("-")
        start, stop = (max(0, total - int(last)), total - 1) if not first else (int(first), min(int(last), total - 1))
        if self.mood == "whole":
            self.send_response(200)
        else:
            self.send_response(206)
            told = start + 1 if self.mood == "shifted" and first else start
            self.send_header(
                "Content-Range", f"bytes {told}-{stop}/{total + (1 if self.mood == 'grows' and first else 0)}"
            )
        tag = f'"{len(self.seen)}"' if self.mood == "changes" else '"one"'
        self.send_header("ETag", tag)
        body = self.content[start : stop + 1]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:10] if self.mood == "short" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.zoo
@pytest.mark.parametrize("legacy", [False, True])
def test_two_requests_whatever_the_size(legacy: bool, server: tuple[type[Server], str], tmp_path: Path) -> None:
    handler, url = server
    torch.save({f"layer{n}.weight": torch.ones(40, 100) for n in range(400)}, tmp_path / "m",
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    handler.content = (tmp_path / "m").read_bytes()
    assert len(handler.content) > 6_000_000
    found = open_checkpoint(f"{url}/file")
    local = open_checkpoint(tmp_path / "m")
    assert found.tensors == local.tensors
    assert found.size == local.size
    assert found.metadata["requests"] == 2
    assert int(found.metadata["fetched_bytes"] or 0) < 1_000_000
    assert all(request["accept-encoding"] == "identity" for request in handler.seen)
    assert handler.seen[1]["if-match"] == '"one"'


@pytest.mark.zoo
def test_safetensors_and_small_files(server: tuple[type[Server], str]) -> None:
    handler, url = server
    handler.content = safetensors({"a": entry()}, b"\0" * 8)
    found = open_checkpoint(f"{url}/file")
    assert found.metadata["requests"] == 1
    assert [tensor.name for tensor in found.tensors] == ["a"]


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("whole", "ignores ranges"),
        ("shifted", "sent another part"),
        ("grows", "changed"),
        ("changes", "changed"),
        ("short", "less than"),
        ("gone", "404"),
    ],
)
def test_servers_that_misbehave(mood: str, words: str, server: tuple[type[Server], str]) -> None:
    handler, url = server
    handler.content = safetensors({"a": entry([200_000], ends=(0, 800_000))}, b"\0" * 800_000)
    handler.mood = mood
    with pytest.raises(BadInput, match=words):
        open_checkpoint(f"{url}/file")


@pytest.mark.zoo
def test_credentials_stay_with_their_host(server: tuple[type[Server], str]) -> None:
    handler, url = server
    handler.content = b"x" * 100
    HttpSource(f"{url}/elsewhere", {"Authorization": "Bearer secret"}).close()
    assert [request.get("authorization") for request in handler.seen] == ["Bearer secret", None]


@pytest.mark.zoo
def test_limits(server: tuple[type[Server], str]) -> None:
    handler, url = server
    handler.content = b"x" * 1_000_000
    with pytest.raises(BadInput, match="more than"):
        HttpSource(f"{url}/file", budget=1000)
    with pytest.raises(BadInput):
        HttpSource(f"{url}/loop")
    addresses = (
        "http://127.0.0.1:1/x",
        "http://",
        "ftp://x/y",
        "http://[bad/x",
        "http://x:y/",
        "http://169.254.169.254/x",
    )
    for address in addresses:
        with pytest.raises(BadInput):
            HttpSource(address)


@pytest.mark.zoo
def test_values_are_not_fetched(server: tuple[type[Server], str], tmp_path: Path) -> None:
    handler, url = server
    handler.content = safetensors({"a": entry()}, b"\0" * 8)
    for doing in (
        lambda: convert_weights(f"{url}/file", tmp_path / "out.pt"),
        lambda: diff_weights(f"{url}/file", f"{url}/file"),
        lambda: summarize_weights(open_checkpoint(f"{url}/file"), stats=True),
        lambda: summarize_weights(open_checkpoint(f"{url}/file"), verified=True),
    ):
        with pytest.raises(BadInput, match="not on this machine"):
            doing()
    assert list(tmp_path.iterdir()) == []
