"""Downloading published weight files, with bounded waits. Nothing else downloads weights."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from modelprobe.errors import one_line

PATIENCE = 8.0
"""Seconds after which a host that does not answer counts as out of reach, name resolution included."""

OFFLINE = ("MODELPROBE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that, set to anything but nothing or 0, keep modelprobe off the network."""

_HASH = re.compile(r"-([a-f0-9]{8,})\.")


class UnreachableError(Exception):
    """A file cannot be fetched; the message says why, for the end of a sentence."""


def offline() -> str:
    """The variable that forbids the network, or nothing."""
    return next((name for name in OFFLINE if os.environ.get(name, "0").lower() not in ("", "0", "false", "no")), "")


def check_reachable(url: str, patience: float = PATIENCE) -> None:
    """Raises UnreachableError when the host of `url` does not answer within `patience` seconds.

    An error of HTTP is an answer. The request runs in a thread of its own, since a resolver may hang for a minute.
    """
    forbidden = offline()
    if forbidden:
        raise UnreachableError(f"{forbidden} is set, which forbids downloads")
    host = urlparse(url).hostname or url
    problem: list[str] = []
    asking = threading.Thread(target=_ask, args=(url, patience, problem), daemon=True)
    asking.start()
    asking.join(patience + 0.5)
    if asking.is_alive():
        raise UnreachableError(f"{host} did not answer within {patience:.0f} s")
    if problem:
        raise UnreachableError(f"{host} cannot be reached ({problem[0]})")


def _ask(url: str, patience: float, problem: list[str]) -> None:
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "modelprobe"})
    try:
        with urllib.request.urlopen(request, timeout=patience):
            return
    except urllib.error.HTTPError:
        return
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        reason = getattr(error, "reason", None)
        problem.append(one_line(reason) if isinstance(reason, BaseException) else one_line(error))


@contextmanager
def bounded_waits(patience: float = PATIENCE) -> Iterator[None]:
    """Within, a socket that nobody gave a timeout has one: torch's own downloads wait for ever otherwise."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(patience)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def fetch_to_hub(url: str) -> Path:
    """The file of `url` in torch's own cache, downloaded unless it is there; its hash, part of its name, is checked.

    Raises UnreachableError.
    """
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urlparse(url).path).name
    file = folder / name
    if file.exists():
        return file
    check_reachable(url)
    found = _HASH.search(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with bounded_waits():
            torch.hub.download_url_to_file(
                url, str(file), found[1] if found else None, progress=sys.stderr is not None and sys.stderr.isatty()
            )
    except (OSError, RuntimeError) as error:
        raise UnreachableError(f"{url} could not be downloaded ({one_line(error)})") from error
    return file
