"""Getting an archive from its publisher: resumed, bounded in time, verified while it streams.

An interrupted download stays as ``<sha256>.part`` with a sidecar that says what it belongs to. The
next attempt asks for the rest (``Range``) and names the version it has (``If-Range`` with the
ETag or date): a server whose file changed, or that cannot serve ranges, sends the whole, and the
download starts over (RFC 9110, sections 13.1.5 and 14).
"""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3

from trainyard.datasets.catalogue import DatasetSource
from trainyard.datasets.digests import Hashes
from trainyard.errors import ConfigurationError, DatasetError, UnavailableError
from trainyard.files import CHUNK, Progress, disk_errors, need_room, write_atomically

_FULL, _PARTIAL, _BAD_RANGE = 200, 206, 416
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_S = 60.0


@dataclass(kw_only=True, slots=True, frozen=True)
class Patience:
    """How long to bear with a server."""

    connect_s: float = 10.0
    """Longest wait for a connection."""
    read_s: float = 60.0
    """Longest silence while bytes are due."""
    attempts: int = 6
    """Attempts in a row that gain not one byte, before giving up."""
    pause_s: float = 1.0
    """Wait after the first failure; doubles each time, up to a minute."""


class _Stopped(Exception):  # noqa: N818  (a signal inside this module, never an error of a user)
    """The server went away or refused for now; worth another attempt."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def obtain(source: DatasetSource, downloads: Path, progress: Progress, patience: Patience) -> Path:
    """Return the verified archive as a local file.

    A local source is used where it lies; a remote one is downloaded into *downloads*. Raises
    ``DatasetError`` for wrong size or checksum (the download is removed: nothing of it can be
    resumed), ``UnavailableError`` when the server does not deliver or the disk is full (the part
    that came is kept).
    """
    downloads.mkdir(parents=True, exist_ok=True)
    parts = urlsplit(source.url)
    if parts.scheme == "package":
        return _verified(source, _in_package(source, parts.netloc, parts.path))
    if parts.scheme == "file":
        return _verified(source, Path(unquote(parts.path)))
    return _Download(source, downloads, progress, patience).run()


def discard(source: DatasetSource, downloads: Path) -> None:
    """Remove the download of *source*; it stays until it is staged, so that no step repeats it."""
    for path in _kept(source, downloads):
        path.unlink(missing_ok=True)


def _kept(source: DatasetSource, downloads: Path) -> tuple[Path, Path]:
    """Return the file of a download and the sidecar that says what it belongs to."""
    return downloads / f"{source.sha256}.part", downloads / f"{source.sha256}.part.json"


def _in_package(source: DatasetSource, module: str, inside: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"data set {source.name}: package {module!r} is not installed here; it ships the file. "
            "Install the environment from requirements/airflow.txt (`make setup`)"
        )
    return Path(spec.submodule_search_locations[0]) / inside.lstrip("/")


def _verified(source: DatasetSource, path: Path) -> Path:
    """Return *path* after comparing size and digests; for files that lie on this machine."""
    if not path.is_file():
        raise DatasetError(
            f"data set {source.name}: {source.url} names {path}, which is no file. Correct its "
            "address, or install the version of the package that requirements/ pins"
        )
    hashes = Hashes()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            hashes.update(chunk)
    hashes.compare(source, path.stat().st_size)
    return path


class _Download:
    """One download with everything that must survive between attempts."""

    def __init__(
        self, source: DatasetSource, downloads: Path, progress: Progress, patience: Patience
    ) -> None:
        self._source = source
        self._path, self._sidecar = _kept(source, downloads)
        self._progress = progress
        self._patience = patience
        self._hashes = Hashes()
        self._done = 0
        self._validator = ""

    def run(self) -> Path:
        """Return the complete, verified file."""
        self._recall()
        resumed = self._done > 0
        need_room(self._path, self._source.size_bytes - self._done, self._what)
        self._fill()
        try:
            self._hashes.compare(self._source, self._done)
        except DatasetError:
            self._forget()
            if not resumed:
                raise
            # The part kept from an earlier run may be what is wrong: once more, from the start.
            return self.run()
        return self._path

    @property
    def _what(self) -> str:
        return f"download of {self._source.name}"

    def _recall(self) -> None:
        """Take up what an earlier run left, when it belongs to the same address."""
        self._hashes, self._done, self._validator = Hashes(), 0, ""
        try:
            kept = json.loads(self._sidecar.read_text())
            if kept["url"] != self._source.url:
                return
            with self._path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    self._hashes.update(chunk)
                    self._done += len(chunk)
            self._validator = str(kept["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            self._hashes, self._done = Hashes(), 0
        if self._done > self._source.size_bytes:
            self._hashes, self._done = Hashes(), 0

    def _forget(self) -> None:
        self._sidecar.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _fill(self) -> None:
        """Ask again and again, from where it stopped, until the file is whole."""
        # Only bytes beyond the farthest point count as progress: a server that starts over and
        # stops at the same place each time would otherwise be asked for ever.
        barren, farthest = 0, self._done
        with self._pool() as pool:
            while self._done < self._source.size_bytes:
                try:
                    self._attempt(pool)
                except _Stopped as stopped:
                    barren = 1 if self._done > farthest else barren + 1
                    farthest = max(farthest, self._done)
                    if barren >= self._patience.attempts:
                        raise self._gave_up(stopped) from stopped
                    pause = self._patience.pause_s * 2.0 ** (barren - 1)
                    time.sleep(min(max(pause, stopped.wait_s), _LONGEST_WAIT_S))

    def _pool(self) -> urllib3.PoolManager:
        import certifi

        timeout = urllib3.Timeout(connect=self._patience.connect_s, read=self._patience.read_s)
        retries = urllib3.Retry(
            total=10,
            connect=0,
            read=0,
            status=0,
            other=0,
            redirect=10,
            respect_retry_after_header=False,
        )
        return urllib3.PoolManager(
            timeout=timeout, retries=retries, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where()
        )

    def _attempt(self, pool: urllib3.PoolManager) -> None:
        # identity: a compressed transfer would make ranges and sizes mean something else.
        headers = {"Accept-Encoding": "identity", "User-Agent": "trainyard"}
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        try:
            response = pool.request("GET", self._source.url, headers=headers, preload_content=False)
            try:
                self._receive(response)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise _Stopped(str(getattr(error, "reason", None) or error)) from error

    def _receive(self, response: Any) -> None:
        """Append the body, after making sure that it continues what is there."""
        if response.status == _BAD_RANGE:
            self._start_over()
            raise _Stopped("the server has no such range")
        if response.status not in {_FULL, _PARTIAL}:
            self._refused(response)
        if response.status == _FULL or not self._continues(response):
            self._start_over()
            if response.status == _PARTIAL:
                raise _Stopped("the server sent another part than the one asked for")
            self._note(response)
        size = self._source.size_bytes
        with (
            disk_errors(self._path, size - self._done, self._what),
            self._path.open("ab", buffering=0) as target,
        ):
            # read1 hands over what is there: a silence loses nothing that came before it.
            while chunk := response.read1(CHUNK, decode_content=False):
                if self._done + len(chunk) > size:
                    self._forget()
                    raise DatasetError(
                        f"{self._what} from {self._source.url}: more than the {size:,} bytes that "
                        "were published; stopped and removed. Check the address"
                    )
                self._append(target, chunk)
                self._progress(self._what, self._done, size)
        if self._done < size:
            raise _Stopped(f"the server ended the file after {self._done:,} bytes")

    def _append(self, target: Any, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[target.write(view) :]
        self._hashes.update(chunk)
        self._done += len(chunk)

    def _continues(self, response: Any) -> bool:
        given = response.headers.get("Content-Range", "")
        return bool(given.startswith(f"bytes {self._done}-"))

    def _start_over(self) -> None:
        self._hashes, self._done, self._validator = Hashes(), 0, ""
        self._path.write_bytes(b"")

    def _note(self, response: Any) -> None:
        """Remember which version of the file this is; a weak ETag must not be used for ranges."""
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) != self._source.size_bytes:
            self._forget()
            raise DatasetError(
                f"{self._what} from {self._source.url}: the server announces {int(announced):,} "
                f"bytes, published are {self._source.size_bytes:,}: a truncated or different "
                "file, or an error page. Nothing was stored; check the address"
            )
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else ""
        self._validator = strong or response.headers.get("Last-Modified", "")
        note = {"url": self._source.url, "validator": self._validator}
        write_atomically(self._sidecar, json.dumps(note))

    def _refused(self, response: Any) -> None:
        status = response.status
        if status in _WORTH_RETRYING:
            after = response.headers.get("Retry-After", "")
            raise _Stopped(f"HTTP {status}", float(after) if after.isdigit() else 0.0)
        raise DatasetError(
            f"{self._what}: {self._source.url} answers HTTP {status}: the address is wrong or "
            f"needs a login. Look at {self._source.homepage}, and name a mirror in the file of "
            "datasets_file (docs/datasets.md)"
        )

    def _gave_up(self, stopped: _Stopped) -> UnavailableError:
        return UnavailableError(
            f"{self._what} from {self._source.url}: stopped after {self._done:,} of "
            f"{self._source.size_bytes:,} bytes, {self._patience.attempts} attempts in a row "
            f"without a byte: {stopped}. What came is kept in {self._path}; run it again to resume"
        )
