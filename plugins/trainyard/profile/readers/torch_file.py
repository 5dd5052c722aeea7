"""The bytes of a torch.profiler trace, bounded, and the records decoded from them."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import msgspec

from trainyard.errors import ProfileError
from trainyard.profile.model import NONE

LARGEST_BYTES = 4 << 30
"""Decompressed size beyond which a trace is refused: about ten million events."""
LARGEST_RATIO = 200
"""Compression beyond this is no trace (they compress about 10 to 40 times)."""
_CHUNK = 16 << 20

Number = int | float | str | None


class Args(msgspec.Struct, gc=False):
    """Arguments of an event, as far as they are used."""

    stream: Number = None
    device: Number = None
    correlation: Number = None
    bytes: Number = None
    external: Number = msgspec.field(name="External id", default=None)
    dims: msgspec.Raw = msgspec.field(name="Input Dims", default=msgspec.Raw())
    types: msgspec.Raw = msgspec.field(name="Input type", default=msgspec.Raw())


class Event(msgspec.Struct, gc=False):
    """One entry of ``traceEvents``."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = math.nan
    dur: float = 0.0
    tid: int | str = NONE
    args: Args | None = None


class Distributed(msgspec.Struct):
    """Where the process stood in its job."""

    rank: int | None = None
    world_size: int | None = None


class Device(msgspec.Struct):
    """A GPU of the machine."""

    id: int = NONE
    name: str = ""


class File(msgspec.Struct):
    """The whole file."""

    events: list[Event] = msgspec.field(name="traceEvents")
    base_ns: int | None = msgspec.field(name="baseTimeNanoseconds", default=None)
    host: str = msgspec.field(name="host_name", default="")
    distributed: Distributed = msgspec.field(name="distributedInfo", default_factory=Distributed)
    devices: list[Device] = msgspec.field(name="deviceProperties", default_factory=list)
    """What ran where; absent from traces of old versions."""


def content_of(path: Path, limit: int) -> bytes:
    """Return the file's JSON text, decompressed within bounds."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    if not zipped:
        if path.stat().st_size > limit:
            raise ProfileError(_too_large(path, limit))
        return path.read_bytes()
    parts, size = [], 0
    compressed = max(1, path.stat().st_size)
    try:
        with gzip.open(path) as file:
            while part := file.read(_CHUNK):
                size += len(part)
                if size > limit or (size > 4 * _CHUNK and size > LARGEST_RATIO * compressed):
                    raise ProfileError(_too_large(path, min(limit, size)))
                parts.append(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ProfileError(
            f"{path} is a truncated or damaged gzip file ({error}): copy it again, or profile again"
        ) from error
    return b"".join(parts)


def _too_large(path: Path, limit: int) -> str:
    return (
        f"{path} holds more than {limit / 2**30:.1f} GiB of JSON, or compresses like no trace "
        "does: it is refused to protect memory. Profile fewer steps (10 to 20 are enough)"
    )


def decoded(path: Path, content: bytes) -> File:
    """Return the records in *content*; raises ``ProfileError`` when it is no such trace."""
    if not content.strip():
        raise ProfileError(f"{path} is empty: the profiler never wrote it. Profile again")
    try:
        return msgspec.json.decode(content, type=File)
    except msgspec.ValidationError as error:
        raise ProfileError(
            f"{path} is JSON, but not a torch.profiler trace ({error}): give the file that "
            "export_chrome_trace wrote"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{path} is truncated or no JSON ({error}): copy it again, or profile again and let "
            "the process end by itself"
        ) from error
