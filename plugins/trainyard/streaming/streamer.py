"""``Streamer``: sends what is finished, remembers it, removes old checkpoints it has stored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.files import one_at_a_time, sha256_of
from trainyard.objectstore import ObjectStore
from trainyard.paths import RunPaths
from trainyard.s3transfer import PART_BYTES
from trainyard.streaming.ledger import (
    CHECKPOINTS,
    PROFILES,
    Begun,
    Ledger,
    Uploaded,
    files_of,
    index_key,
    key_of,
)
from trainyard.streaming.multipart import ForgottenError, Multipart

if TYPE_CHECKING:
    from trainyard.settings import Settings

SETTLED_S = 30.0
"""A profile or log counts as finished when it has not changed for so long; a checkpoint appears
whole, by one rename."""
_LOCK_WAIT_S = 900.0


@dataclass(kw_only=True, slots=True, frozen=True)
class Streamed:
    """How complete a run's files are in the object store."""

    stored: int
    """Files there, those that were pruned here included."""
    missing: int
    """Files here that are not there."""
    size_bytes: int
    """Bytes of those stored."""
    sent: int
    """Files that this call has sent."""
    detail: str = ""
    """Why some are missing."""


class Streamer:
    """Sends the files of one run; a lock of the run lets one thread of one process do it."""

    def __init__(self, settings: Settings, paths: RunPaths, *, timeout_s: float = 60.0) -> None:
        """Remember where; nothing is asked of the store yet."""
        self._settings, self._paths, self._timeout_s = settings, paths, timeout_s
        self._ledger = Ledger()
        self._ready_at = 0.0
        self._made_store: ObjectStore | None = None
        self._made_multipart: Multipart | None = None

    # Not functools.cached_property: until Python 3.12 it holds one lock for all instances, and a
    # silent store would stop every other run's upload.
    @property
    def _store(self) -> ObjectStore:
        if self._made_store is None:
            store = ObjectStore(self._settings, timeout_s=self._timeout_s)
            store.ensure_bucket()
            self._made_store = store
        return self._made_store

    @property
    def _multipart(self) -> Multipart:
        if self._made_multipart is None:
            self._made_multipart = Multipart(self._settings, timeout_s=self._timeout_s)
        return self._made_multipart

    def step(self) -> Streamed:
        """Send every checkpoint, profile and log that is finished, then prune.

        Raises ``UnavailableError`` at the first thing the store does not take: call again later.
        """
        with self._alone():
            now = time.time()
            sent = 0
            self._write_index()
            for name, size, mtime_ns in self._finished(now):
                sent += self._send(name, size, mtime_ns)
            self._prune()
            return self._count(sent)

    def finish(self) -> Streamed:
        """Send every file of a run that is over; what is there is not sent again.

        Never raises for the store: what it did not take is counted as missing, with the reason.
        """
        with self._alone():
            sent, complaint = 0, ""
            try:
                self._write_index()
                for name, size, mtime_ns in files_of(self._paths):
                    sent += self._send(name, size, mtime_ns)
            except (UnavailableError, ConfigurationError) as error:
                complaint = str(error)  # the next file would wait for the same silence
            self._prune()
            return self._count(sent, complaint)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._paths.lock.with_name(f"{self._paths.run_id}.streaming")
        with one_at_a_time(lock, f"upload of {self._paths.run_id}", wait_s=_LOCK_WAIT_S):
            self._ledger = Ledger.read(self._paths.streamed)
            yield

    def _remember(self) -> None:
        """Write the ledger; where the disk is full, the next process sends again, no more."""
        with contextlib.suppress(OSError):
            self._ledger.write(self._paths.streamed)

    def _finished(self, now: float) -> list[tuple[str, int, int]]:
        """Return what can be sent while the run goes on, the newest checkpoint first.

        A resumed run needs the newest; older ones that a slow line has not taken by then follow.
        """
        checkpoints, others = [], []
        for name, size, mtime_ns in files_of(self._paths):
            first = name.partition("/")[0]
            if first == CHECKPOINTS:
                if not name.rpartition("/")[2].startswith("."):
                    checkpoints.append((name, size, mtime_ns))
            elif (first == PROFILES or name.endswith(".log")) and (
                now - mtime_ns / 1e9 >= SETTLED_S
            ):
                others.append((name, size, mtime_ns))
        return [*sorted(checkpoints, reverse=True), *others]

    def _send(self, name: str, size: int, mtime_ns: int) -> bool:
        """Send one file unless it is there; return whether it was sent now."""
        if self._ledger.holds(name, size, mtime_ns):
            return False
        path, key = self._paths.run_dir / name, key_of(self._paths.run_id, name)
        try:
            if size > PART_BYTES:
                digest = self._send_parts(name, key, size, mtime_ns)
            else:
                digest = sha256_of(path)
                self._pace(size)
                self._store.put_file(key, path, sha256=digest)
        except FileNotFoundError:
            return False  # an old checkpoint that the trainer removed meanwhile
        stored = self._store.stat(key)
        if stored is None or stored.size_bytes != size:
            raise UnavailableError(
                f"{self._store.uri(key)}: sent {size:,} bytes, the store has "
                f"{stored.size_bytes if stored else 0:,}. It is sent again"
            )
        self._ledger.begun.pop(name, None)
        if _now(path) in {None, (size, mtime_ns)}:  # else it grew: sent again later
            self._ledger.uploaded[name] = Uploaded(
                name=name, size_bytes=size, mtime_ns=mtime_ns, sha256=digest
            )
        self._remember()
        if name.startswith(f"{CHECKPOINTS}/"):
            self._write_index()
        return True

    def _send_parts(self, name: str, key: str, size: int, mtime_ns: int) -> str:
        path, begun = self._paths.run_dir / name, self._ledger.begun.get(name)
        if begun is not None and (begun.size_bytes, begun.mtime_ns) != (size, mtime_ns):
            self._multipart.abandon(key, begun.upload_id)
            begun = None
        while True:
            if begun is None:
                _ = self._store  # makes the bucket
                begun = Begun(
                    name=name,
                    upload_id=self._multipart.begin(key),
                    size_bytes=size,
                    mtime_ns=mtime_ns,
                )
                self._ledger.begun[name] = begun
                self._remember()
            try:
                return self._multipart.go_on(key, begun.upload_id, path, size, self._pace)
            except FileNotFoundError:
                self._multipart.abandon(key, begun.upload_id)
                self._ledger.begun.pop(name, None)
                raise
            except ForgottenError:
                if self._ledger.begun.pop(name, None) is None:
                    raise
                begun = None

    def _pace(self, size: int) -> None:
        """Wait until *size* more bytes fit the bandwidth of the settings."""
        rate = self._settings.stream_bytes_per_s
        if rate:
            now = time.monotonic()
            time.sleep(max(self._ready_at - now, 0))
            self._ready_at = max(self._ready_at, now) + size / rate

    def _write_index(self) -> None:
        """List the stored checkpoints for whoever resumes the run elsewhere.

        The store may take a checkpoint and not the list: what it has is remembered, so that every
        later look writes a list that was not taken.
        """
        listed = [
            {
                "name": one.name.rpartition("/")[2],
                "size_bytes": one.size_bytes,
                "sha256": one.sha256,
            }
            for name, one in sorted(self._ledger.uploaded.items())
            if name.startswith(f"{CHECKPOINTS}/")
        ]
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else ""
        if digest != self._ledger.indexed:
            self._store.put_json(index_key(self._paths.run_id), {"checkpoints": listed})
            self._ledger.indexed = digest
            self._remember()

    def _prune(self) -> None:
        """Remove checkpoints here that are stored there, all but the newest few."""
        if not self._paths.checkpoints.is_dir():
            return
        found = sorted(self._paths.checkpoints.glob("step-*.pt"), reverse=True)
        for path in found[max(self._settings.keep_local_checkpoints, 1) :]:
            name = path.relative_to(self._paths.run_dir).as_posix()
            try:
                info = path.stat()
                if self._ledger.holds(name, info.st_size, info.st_mtime_ns):
                    path.unlink()
            except FileNotFoundError:
                continue

    def _count(self, sent: int, detail: str = "") -> Streamed:
        missing = sum(not self._ledger.holds(*one) for one in files_of(self._paths))
        return Streamed(
            stored=len(self._ledger.uploaded),
            missing=missing,
            size_bytes=sum(one.size_bytes for one in self._ledger.uploaded.values()),
            sent=sent,
            detail=detail if missing else "",
        )


def _now(path: Path) -> tuple[int, int] | None:
    """Return bytes and last change of a file; None when it was removed."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_size, info.st_mtime_ns


def finish(settings: Settings, paths: RunPaths) -> Streamed:
    """Send what the object store lacks of a run that is over; see ``Streamer.finish``."""
    return Streamer(settings, paths).finish()
