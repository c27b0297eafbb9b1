"""A file in a bucket or on the Hub, listed without downloading it: through fsspec, in the windows of HTTP.

How to add a store: a row of `STORE_PACKAGES` (its scheme and the package that fsspec needs for it); the scheme in
`file_names.SCHEMES`.
"""

from __future__ import annotations

from typing import Any

from modelprobe.checkpoint.bytes.http import BUDGET, RemoteSource
from modelprobe.errors import BadInput, ProbeError, one_line

STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""What gives fsspec each store; all of them come with `pip install 'modelprobe[remote]'`."""


class BucketSource(RemoteSource):
    """A file behind an address of fsspec. `requests` counts the question for its size, too.

    Credentials are those that the store's own package
    finds; none are asked for. Raises BadInput for what cannot be reached, with the package that is missing.
    """

    def __init__(self, url: str, budget: int = BUDGET) -> None:
        super().__init__(url, budget)
        self._store, self._path = _store(url)
        self.size = self._length()

    def _length(self) -> int:
        """The size of the file, of which the store tells."""
        self.requests += 1
        try:
            info = self._store.info(self._path)
        except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
            raise _unreachable(self.name, error) from None
        if info.get("type") == "directory":
            raise BadInput(f"{self.name} is a directory", "name a file in it")
        if not isinstance(info.get("size"), int):
            raise BadInput(f"{self.name}: its store does not tell how long it is", "download it, then list it")
        if not info["size"]:
            raise BadInput(f"{self.name} is an empty file")
        return int(info["size"])

    def _part(self, start: int, stop: int) -> bytes:
        self._check_budget(stop - start, "its store")
        self.requests += 1
        try:
            data = bytes(self._store.cat_file(self._path, start=start, end=stop))
        except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
            raise _unreachable(self.name, error) from None
        if len(data) != stop - start:
            raise BadInput(f"{self.name} changed while it was read, or its store sent another part", "try again")
        self.fetched += len(data)
        self._windows.append((start, data))
        return data


def _store(url: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    scheme = url.partition("://")[0]
    package = STORE_PACKAGES.get(scheme)
    if package is None or "::" in url:
        known = ", ".join(f"{name}://" for name in STORE_PACKAGES)
        raise BadInput(f"{url} has an unknown scheme", f"one of {known}, or http(s)://")
    remedy = f"pip install 'modelprobe[remote]' brings {package}"
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise BadInput(f"{scheme}:// addresses need the package fsspec, which is not installed", remedy) from None
    try:
        store, path = url_to_fs(url, use_listings_cache=False)
    except ImportError:
        raise BadInput(f"{scheme}:// addresses need the package {package}, which is not installed", remedy) from None
    except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
        raise _unreachable(url, error) from None
    return store, path


def _unreachable(url: str, error: Exception) -> ProbeError:
    """The one line for what a store raises."""
    if isinstance(error, ProbeError):
        return error
    if isinstance(error, FileNotFoundError):
        return BadInput(f"there is no {url}, or it may not be seen without a login", "check the address")
    if isinstance(error, PermissionError) or "credentials" in str(error).lower():
        return BadInput(f"{url} may not be read: {one_line(error)}", "log in as the store's own tools do")
    return BadInput(f"cannot read {url}: {one_line(error)}")
