"""``ObjectStore``: the few things Trainyard does with an S3 bucket, with errors a user can act on.

A thin layer over the ``minio`` client, which speaks to MinIO, AWS S3 and every other S3 server.
What it adds: bounded memory and time, a digest checked *while* bytes travel (an object whose bytes
are wrong never becomes visible), ranged reads that resume, and one place where the client's
exceptions become ``UnavailableError`` (try again later) or ``ConfigurationError`` (change
something first). ``minio`` is imported when the first request is made, so that importing this
module costs a DAG file nothing.
"""

from __future__ import annotations

import io
import json
import mimetypes
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from trainyard import s3client
from trainyard.errors import UnavailableError
from trainyard.files import Progress, VerifyingReader, ignore_progress
from trainyard.s3transfer import download, parallel_parts, part_size

if TYPE_CHECKING:
    from minio import Minio

    from trainyard.settings import Settings


@dataclass(kw_only=True, slots=True, frozen=True)
class ObjectInfo:
    """What the store says about one object."""

    key: str
    """Key inside the bucket."""
    size_bytes: int
    """Length."""
    etag: str
    """The server's entity tag; not a digest of the content for multipart objects."""
    modified_at: str
    """When it was stored, UTC, ISO 8601; empty when the server does not say."""


@dataclass(kw_only=True, slots=True, frozen=True)
class StoreHealth:
    """Answer of ``ObjectStore.check``: whether the store can do what a study needs of it."""

    ok: bool
    """Bucket reachable, and one small object written, read back and removed."""
    endpoint: str
    """``host:port`` that was asked."""
    bucket: str
    """Bucket that was asked."""
    latency_s: float
    """Seconds for a write and a read of 1 KiB; NaN when it did not come to that."""
    detail: str
    """What was measured, or what is wrong and what to do."""


class ObjectStore:
    """The bucket of one installation.

    ``timeout_s`` bounds one wait for an answer; a server that refuses connections is reported in
    about a second, one that accepts and stays silent after twice this time.
    """

    def __init__(self, settings: Settings, *, timeout_s: float = 60.0) -> None:
        """Remember where the store is; nothing is asked of it yet."""
        self.endpoint = settings.s3_endpoint
        self.bucket = settings.s3_bucket
        self._settings = settings
        self._timeout_s = timeout_s
        self._made: Minio | None = None
        self._http: s3client.WatchedPool | None = None

    @property
    def client(self) -> Minio:
        """The ``minio`` client; raises ``ConfigurationError`` for an endpoint it cannot use."""
        if self._made is None:
            self._http = s3client.pool(self._timeout_s)
            self._made = s3client.make(self._settings, self._http)
        return self._made

    def _asking(self, doing: str) -> s3client.Mapped:
        return s3client.Mapped(self._settings, doing)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; harmless when two do it at once."""
        with self._asking(f"looking for bucket {self.bucket}"):
            if self.client.bucket_exists(self.bucket):
                return
        with self._asking(f"creating bucket {self.bucket}"):
            s3client.create_bucket(self.client, self.bucket)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what the store knows about *key*, or None when it has no such object."""
        try:
            with self._asking(f"asking for {key}"):
                found = self.client.stat_object(self.bucket, key)
        except s3client.ObjectMissingError:
            return None
        when = found.last_modified
        return ObjectInfo(
            key=key,
            size_bytes=found.size or 0,
            etag=found.etag or "",
            modified_at=when.isoformat(timespec="seconds") if when else "",
        )

    def exists(self, key: str) -> bool:
        """Tell whether *key* is there."""
        return self.stat(key) is not None

    def put_stream(
        self,
        key: str,
        stream: BinaryIO,
        size_bytes: int,
        *,
        sha256: str = "",
        content_type: str = "application/octet-stream",
        progress: Progress = ignore_progress,
    ) -> None:
        """Store *size_bytes* of *stream* under *key*, in parts, with about 32 MiB of memory.

        With *sha256* (64 hex digits) the last part is only handed over once the digest of the
        whole is known to be right; until then the object does not exist for any reader, and an
        interrupted or wrong upload leaves none. Raises ``DatasetError`` for wrong bytes.
        """
        client = self.client
        watched = cast("s3client.WatchedPool", self._http)
        watched.failure = None
        reader = VerifyingReader(
            stream,
            size_bytes,
            sha256=sha256,
            what=f"upload of {key}",
            progress=progress,
            stop=watched.stop,
        )
        with self._asking(f"storing {key}"):
            client.put_object(
                self.bucket,
                key,
                cast("BinaryIO", reader),
                size_bytes,
                content_type=content_type,
                part_size=part_size(size_bytes),
                num_parallel_uploads=parallel_parts(size_bytes),
            )

    def put_file(
        self, key: str, path: Path, *, sha256: str = "", progress: Progress = ignore_progress
    ) -> None:
        """Store the file *path* under *key*; see ``put_stream`` for *sha256*."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        with path.open("rb", buffering=0) as stream:
            self.put_stream(
                key,
                cast("BinaryIO", stream),
                path.stat().st_size,
                sha256=sha256,
                content_type=kind,
                progress=progress,
            )

    def get_to_file(
        self,
        key: str,
        path: Path,
        *,
        size_bytes: int,
        sha256: str,
        progress: Progress = ignore_progress,
    ) -> None:
        """Write the object to *path*, going on where an earlier attempt left *path*.

        The digest covers the resumed part too. Raises ``DatasetError`` and removes *path* when
        the bytes are wrong, ``UnavailableError`` when the store is down (*path* is kept, and the
        next call resumes it), has no such object, or the disk is full.
        """
        download(
            self._open_range,
            key,
            path,
            size_bytes=size_bytes,
            sha256=sha256,
            progress=progress,
            asking=self._asking,
        )

    def _open_range(self, key: str, offset: int) -> Any:
        return self.client.get_object(self.bucket, key, offset=offset)

    def put_json(self, key: str, document: object) -> None:
        """Store *document* as JSON text with sorted keys; replaces what was there in one step."""
        text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()
        self.put_stream(key, io.BytesIO(text), len(text), content_type="application/json")

    def get_bytes(self, key: str) -> bytes | None:
        """Return the whole of a small object, or None when there is none."""
        try:
            return self._read(key)
        except s3client.ObjectMissingError:
            return None

    def get_json(self, key: str) -> Any:
        """Return the JSON document under *key*, or None when there is none."""
        text = self.get_bytes(key)
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise UnavailableError(
                f"object {self.uri(key)}: not a JSON document ({error}). "
                "Remove it, and run the step that writes it again"
            ) from error

    def _read(self, key: str) -> bytes:
        with self._asking(f"reading {key}"):
            response = self.client.get_object(self.bucket, key)
            try:
                return response.read()
            finally:
                response.release_conn()

    def put_artifacts(self, owner_id: str, folder: Path, *, prefix: str = "runs") -> list[str]:
        """Store every file below *folder* as ``<prefix>/<owner_id>/…``; return their URIs, sorted.

        Links are left out: what they point to may lie outside *folder*. A second call replaces
        the same keys, so a retried task leaves no second copy.
        """
        self.ensure_bucket()
        uris = []
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            key = f"{prefix}/{owner_id}/{path.relative_to(folder).as_posix()}"
            self.put_file(key, path)
            uris.append(self.uri(key))
        return uris

    def uri(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{key}"

    def presigned(self, key: str, *, valid: timedelta = timedelta(days=1)) -> str:
        """Return an address from which a browser may read *key* without credentials for a while."""
        with self._asking(f"signing an address of {key}"):
            return self.client.presigned_get_object(self.bucket, key, expires=valid)

    def keys(self, prefix: str) -> list[str]:
        """Return every key that begins with *prefix*, sorted."""
        with self._asking(f"listing {prefix}"):
            found = self.client.list_objects(self.bucket, prefix, recursive=True)
            return sorted(str(one.object_name) for one in found if not one.is_dir)

    def remove(self, key: str) -> None:
        """Remove *key*; harmless when it is not there."""
        try:
            with self._asking(f"removing {key}"):
                self.client.remove_object(self.bucket, key)
        except s3client.ObjectMissingError:
            return

    def check(self) -> StoreHealth:
        """Write, read back and remove 1 KiB, and say how long it took; never raises for a fault."""
        key, payload = f"health/{uuid.uuid4().hex}", b"\x5a" * 1024
        latency, ok = float("nan"), False
        try:
            self.ensure_bucket()
            start = time.perf_counter()
            self.put_stream(key, io.BytesIO(payload), len(payload))
            echoed = self._read(key)
            latency = time.perf_counter() - start
            self.remove(key)
            ok = echoed == payload
            detail = f"1 KiB written and read in {latency * 1000:.1f} ms"
            if not ok:
                detail = f"{self.uri(key)} came back changed: the store or a proxy damages data"
        except s3client.STORE_ERRORS as error:
            detail = str(error)
        return StoreHealth(
            ok=ok, endpoint=self.endpoint, bucket=self.bucket, latency_s=latency, detail=detail
        )
