"""A weight file on a web server, listed without downloading it: range requests, of one version, bounded."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from modelprobe.errors import BadInput
from modelprobe.report.units import size as bytes_text

TAIL_BYTES = 1 << 18  # what a zip directory of a few thousand storages needs
AHEAD = 1 << 19  # as much again for the pickle at the front
BUDGET = 64 << 20
SECONDS = 60.0
TIMEOUT = 20.0
MAX_REDIRECTS = 5

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CREDENTIALS = ("Authorization", "Cookie", "Proxy-authorization")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, never from https down to http, and keep credentials from every other host."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), check_address(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise BadInput(f"{req.full_url} redirects to {newurl}, which is not https", "refused")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (old.hostname, old.port) != (new.hostname, new.port):
            for name in _CREDENTIALS:
                following.remove_header(name)
        return following


def check_address(url: str) -> urllib.parse.SplitResult:
    """The parts of an http(s) address. Link-local ones are refused: clouds keep a machine's credentials there."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise BadInput(f"{url} is not an http(s) address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadInput(f"{url} is not an http(s) address")
    if host.startswith("169.254.") or host.lower().startswith("fe80:") or host == "metadata.google.internal":
        raise BadInput(f"{url} is a link-local address", "refused")
    return parts


class RemoteSource:
    """A file elsewhere, read in windows that are kept: near reads cost no second request.

    `requests` and `fetched` (bytes) are bounded by time and by a budget. A subclass says how a part is fetched.
    """

    def __init__(self, url: str, budget: int) -> None:
        self.name = url
        self.origin: int | None = 0
        self.requests = self.fetched = self.size = 0
        self._budget = budget
        self._deadline = time.monotonic() + SECONDS
        self._windows: list[tuple[int, bytes]] = []

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        for start, data in self._windows:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        return self._part(offset, min(offset + max(length, AHEAD), self.size))[:length]

    def close(self) -> None:
        """Drop the windows."""
        self._windows.clear()

    def _part(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, entered as a window."""
        raise NotImplementedError

    def _check_budget(self, length: int, who: str) -> None:
        """Raise BadInput when so many bytes more are too many, or it took too long."""
        if self.fetched + length > self._budget:
            raise BadInput(f"{self.name}: listing it would fetch more than {bytes_text(self._budget)}", "download it")
        if time.monotonic() > self._deadline:
            raise BadInput(f"{self.name}: {who} took longer than {SECONDS:.0f} s")


class HttpSource(RemoteSource):
    """A file behind a URL.

    The first request takes the last window, which tells the size and, of a zip, the directory. All requests must answer
    for one version of the file. `headers` (a token, say) go to the first host only.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, budget: int = BUDGET) -> None:
        check_address(url)
        super().__init__(url, budget)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "modelprobe", **(headers or {})}
        self._tag = ""
        self._opener = urllib.request.build_opener(_Redirects)
        self._fetch(f"bytes=-{TAIL_BYTES}", None)

    def _part(self, start: int, stop: int) -> bytes:
        return self._fetch(f"bytes={start}-{stop - 1}", (start, stop - 1))

    def _fetch(self, wanted: str, bounds: tuple[int, int] | None) -> bytes:
        request = urllib.request.Request(self.name, headers={**self._headers, "Range": wanted})
        if self._tag:
            request.add_header("If-Match", self._tag)
        self.requests += 1
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                first, last = self._checked(answer, bounds)
                data = self._body(answer, last - first + 1)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise BadInput(f"cannot read {self.name}: {str(reason).lower() or type(error).__name__}") from None
        self._windows.append((first, data))
        return data

    def _checked(self, answer: Any, bounds: tuple[int, int] | None) -> tuple[int, int]:
        """The range that an answer holds, which must be the one asked for, of the same file as before."""
        if answer.status != 206:
            length = answer.headers.get("Content-Length")
            told = f" ({bytes_text(int(length))})" if length and length.isdigit() else ""
            raise BadInput(
                f"{self.name} can only be had as a whole{told}: the server ignores ranges", "download it, then list it"
            )
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None:
            raise BadInput(f"{self.name}: the server does not say which part it sent")
        first, last, total = (int(number[:18]) for number in match.groups())
        tag = answer.headers.get("ETag", "")
        tag = "" if tag.startswith("W/") else tag
        if bounds is None:
            self.size, self._tag = total, tag
        changed = total != self.size or (self._tag and tag and tag != self._tag)
        if changed or not first <= last < total or (bounds is not None and (first, last) != bounds):
            raise BadInput(f"{self.name} changed while it was read, or the server sent another part", "try again")
        return first, last

    def _body(self, answer: Any, length: int) -> bytes:
        """The bytes of an answer: no more than announced, within the budget of bytes and time."""
        parts, left = [], length
        self._check_budget(length, "the server")
        while left > 0:
            self._check_budget(left, "the server")
            data = answer.read(min(left, 1 << 16))
            if not data:
                raise BadInput(f"{self.name}: the server sent less than it announced", "try again")
            parts.append(data)
            left -= len(data)
        self.fetched += length
        return b"".join(parts)

    def _refused(self, error: urllib.error.HTTPError) -> BadInput:
        if error.code == 416 and not self._windows:
            return BadInput(f"{self.name} is an empty file")
        if error.code == 412:
            return BadInput(f"{self.name} changed while it was read", "try again")
        hint = {401: "it needs a login or a token", 403: "it needs a login or a token", 404: "check the address"}
        return BadInput(f"{self.name}: the server answers {error.code}", hint.get(error.code, ""))
