"""``flock`` on small files that are never removed, and file systems on which it means nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.cache.errors import CacheError

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "panfs"}
    | {f"fuse.{kind}" for kind in ("sshfs", "glusterfs", "ceph", "s3fs", "rclone", "juicefs")}
)
"""Kinds of file systems that several hosts share: no place for a node's own copy."""
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""How the kernel writes space, tab, newline and backslash in mountinfo; all else is as it is."""
_SHORTEST_S, _LONGEST_S = 0.002, 0.1


class Lock:
    """An open lock file. It is held until ``close`` or the end of every process that shares it."""

    def __init__(self, path: Path) -> None:
        """Open *path*, created when missing; nothing is locked yet."""
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def try_take(self, *, shared: bool = False) -> bool:
        """Take the lock unless somebody holds it in a way that excludes this."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take(self, *, shared: bool = False, wait_s: float) -> None:
        """Take the lock; raises ``CacheError`` after *wait_s* seconds of waiting."""
        deadline, pause = time.monotonic() + wait_s, _SHORTEST_S
        while not self.try_take(shared=shared):
            if time.monotonic() > deadline:
                raise CacheError(
                    f"{self._path}: another process holds this lock for more than {wait_s:.0f} s. "
                    f"`fuser {self._path}` names it; end it, or wait longer"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_S)

    def touch(self) -> None:
        """Set the file's moment of change to now; the kernel's own now is milliseconds coarse."""
        now = time.time_ns()
        os.utime(self._handle, ns=(now, now))

    def close(self) -> None:
        """Let go; harmless when closed already."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@contextlib.contextmanager
def held(path: Path, *, wait_s: float) -> Iterator[None]:
    """Hold *path* exclusively while the block runs."""
    lock = Lock(path)
    try:
        lock.take(wait_s=wait_s)
        yield
    finally:
        lock.close()


def filesystem(path: Path, mounts: str) -> str:
    """Return the kind of file system below *path* after the text of /proc/self/mountinfo; or ''.

    Of several mounts on one point the last one counts: it hides the others.
    """
    best, kind = -1, ""
    wanted = str(path)
    for line in mounts.splitlines():
        front, _, back = line.partition(" - ")
        fields = front.split()
        if len(fields) < 5 or not back:  # noqa: PLR2004  proc(5): the fifth is the mount point
            continue
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), back.split()[0]
    return kind


def check_usable(folder: Path) -> None:
    """Raise ``CacheError`` where locks would not protect the cache, naming what to do."""
    advice = "choose a folder on a disk of this node, or leave cache_dir empty"
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        mounts = ""
    kind = filesystem(folder.resolve(), mounts)
    if kind in NETWORK:
        raise CacheError(
            f"cache_dir {folder}: lies on {kind}, which other hosts share; its locks need not hold "
            f"between them and reading it is no faster. For a node-local cache, {advice}"
        )
    probe = folder / "locks" / "probe"
    first, second = Lock(probe), Lock(probe)
    try:
        if not first.try_take(shared=True) or second.try_take():
            raise CacheError(f"cache_dir {folder}: flock excludes nobody on {kind}; {advice}")
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
        raise CacheError(
            f"cache_dir {folder}: {kind or 'its file system'} has no flock ({error.strerror}); "
            f"{advice}"
        ) from error
    finally:
        first.close()
        second.close()
