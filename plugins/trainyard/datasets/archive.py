"""Reading archives that nobody vouches for.

Members are streamed out of the archive one after the other and never written to disk under their
own name, so a path cannot escape. Everything that has no place in a data set is still refused,
each with its own message: the archive is then not what its publisher made.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NoReturn, cast

from trainyard.errors import DatasetError

_RATIO_FROM_BYTES = 2**20
_HEADER_BYTES = 2**20


@dataclass(kw_only=True, slots=True, frozen=True)
class Limits:
    """How much an archive may unfold to."""

    total_bytes: int
    """Most bytes after decompression, headers included."""
    members: int = 10_000
    """Most members."""
    ratio: float = 100.0
    """Most bytes out per byte in, looked at once 1 MiB came out; gzip itself reaches 1,030."""


class _Counted(io.RawIOBase):
    """The decompressed stream, cut off where it breaks the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._packed = path.stat().st_size
        self._stream = cast("BinaryIO", gzip.GzipFile(path, "rb"))
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read(size)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DatasetError(
                f"archive {self._path.name}: not a whole gzip file: {error}. Fetch it again"
            ) from error
        self._out += len(data)
        if self._out > self._limits.total_bytes:
            _refuse(self._path, f"unfolds to more than {self._limits.total_bytes:,} bytes")
        if self._out > max(_RATIO_FROM_BYTES, self._limits.ratio * self._packed):
            _refuse(
                self._path,
                f"{self._packed:,} bytes unfold to more than {self._limits.ratio:g} times as many",
            )
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


class _BoundedHeader(tarfile.TarInfo):
    """A header whose extension records are bounded: ``tarfile`` reads those whole into memory."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _BoundedHeader:
        made = super().frombuf(buf, encoding, errors)
        extension = made.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if extension and made.size > _HEADER_BYTES:
            raise DatasetError(
                f"archive refused: an extended header of {made.size:,} bytes (at most "
                f"{_HEADER_BYTES:,}). It is not what its publisher made"
            )
        return made


class Content:
    """The bytes of one member, readable until the next member is asked for."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        """*path* names the archive in errors."""
        self._path = path
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes; raises ``DatasetError`` where the archive is cut off."""
        try:
            return self._stream.read(size)
        except tarfile.TarError as error:
            raise _not_whole(self._path, error) from error


def open_gzip(path: Path, limits: Limits) -> io.BufferedReader:
    """Return the decompressed content of a single-file gzip, within *limits*."""
    return io.BufferedReader(_Counted(path, limits), buffer_size=2**17)


def members(path: Path, limits: Limits) -> Iterator[tuple[str, int, Content]]:
    """Yield (name, bytes, content) of every regular file of a tar.gz, in the archive's order.

    Content can be read until the next member is asked for. Raises ``DatasetError``, naming the
    archive and the member, for absolute paths, ``..``, symbolic and hard links, device files,
    FIFOs, sparse files, duplicate names, a decompression bomb and a damaged archive.
    """
    seen: set[str] = set()
    count = 0
    with _Counted(path, limits) as unfolded:
        try:
            with tarfile.open(fileobj=unfolded, mode="r|", tarinfo=_BoundedHeader) as tar:
                for member in tar:
                    count += 1
                    if count > limits.members:
                        _refuse(path, f"more than {limits.members:,} members")
                    _check(path, member, seen)
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None:
                        yield member.name, member.size, Content(path, content)
                _drain(unfolded)
        except tarfile.TarError as error:
            raise _not_whole(path, error) from error


def _drain(stream: _Counted) -> None:
    """Read to the end: what hides behind the last member is counted, the gzip checksum checked."""
    while stream.read(2**20):
        pass


def _check(path: Path, member: tarfile.TarInfo, seen: set[str]) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or "\\" in member.name or "\0" in member.name:
        _refuse(path, f"member {member.name!r} has an absolute or foreign path")
    if ".." in name.parts:
        _refuse(path, f"member {member.name!r} climbs out of its folder with '..'")
    if member.issym() or member.islnk():
        kind = "symbolic" if member.issym() else "hard"
        _refuse(path, f"member {member.name!r} is a {kind} link to {member.linkname!r}")
    if member.ischr() or member.isblk():
        _refuse(path, f"member {member.name!r} is a device file")
    if member.isfifo():
        _refuse(path, f"member {member.name!r} is a FIFO")
    if member.issparse() or not (member.isreg() or member.isdir()):
        _refuse(path, f"member {member.name!r} is neither a plain file nor a folder")
    if str(name) in seen:
        _refuse(path, f"member {member.name!r} comes twice")
    seen.add(str(name))


def _not_whole(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"archive {path.name}: not a whole tar file: {error}. Fetch it again")


def _refuse(path: Path, why: str) -> NoReturn:
    raise DatasetError(
        f"archive {path.name} refused: {why}. It is not what its publisher made: check the "
        "source address and checksum; nothing of it was stored"
    )
