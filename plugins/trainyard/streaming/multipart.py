"""Multipart uploads that go on where they broke off, part by part, each part verified.

``boto3`` because it makes the single calls of the S3 API public; ``minio`` keeps them to itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.s3transfer import part_size

if TYPE_CHECKING:
    from trainyard.settings import Settings

_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
Pace = Callable[[int], None]
"""Called with the bytes about to be sent; waits where bandwidth is bounded."""


class Multipart:
    """Resumable uploads into the bucket of an installation."""

    def __init__(self, settings: Settings, *, timeout_s: float = 60.0) -> None:
        """Make a client; nothing is asked yet."""
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        self._bucket, self._endpoint = settings.s3_bucket, settings.s3_endpoint
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=f"{'https' if settings.s3_secure else 'http'}://{settings.s3_endpoint}",
            aws_access_key_id=settings.s3_access_key,
            aws_secret_access_key=settings.s3_secret_key,
            region_name="us-east-1",
            config=Config(
                connect_timeout=3,
                read_timeout=timeout_s,
                retries={"total_max_attempts": 2},
                s3={"addressing_style": "path"},
                # Its newer trailing checksums are not understood by every S3 server.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def begin(self, key: str) -> str:
        """Return the id of a new upload of *key*."""
        with self._asking(f"beginning the upload of {key}"):
            made = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
        return str(made["UploadId"])

    def go_on(self, key: str, upload_id: str, path: Path, size_bytes: int, pace: Pace) -> str:
        """Send the parts of *path* that are missing, complete the upload, return the SHA-256.

        Raises ``UnavailableError`` when the store does not answer (call again: parts that arrived
        are not sent twice) or has forgotten the upload, ``FileNotFoundError`` for a file that is
        gone.
        """
        there, parts = self._parts(key, upload_id), []
        hashed, length = hashlib.sha256(), part_size(size_bytes)
        with path.open("rb", 0) as stream:
            for number in range(1, -(-size_bytes // length) + 1):
                data = stream.read(length)
                hashed.update(data)
                etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                if there.get(number) != (etag, len(data)):
                    pace(len(data))
                    self._send(key, upload_id, number, data, etag)
                parts.append({"PartNumber": number, "ETag": f'"{etag}"'})
        with self._asking(f"completing the upload of {key}"):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        return hashed.hexdigest()

    def _send(self, key: str, upload_id: str, number: int, data: bytes, etag: str) -> None:
        with self._asking(f"sending part {number} of {key}"):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data
            )
        found = str(answer["ETag"]).strip('"')
        if found != etag:
            raise UnavailableError(
                f"object store {self._endpoint}: part {number} of {key} arrived as {found}, sent "
                f"was {etag}: the way there damages data. It is sent again with the next attempt"
            )

    def _parts(self, key: str, upload_id: str) -> dict[int, tuple[str, int]]:
        """Return MD5 and bytes of the parts that arrived."""
        found = {}
        with self._asking(f"listing the parts of {key}"):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=key, UploadId=upload_id
            )
            for page in pages:
                for part in page.get("Parts", []):
                    found[part["PartNumber"]] = (part["ETag"].strip('"'), part["Size"])
        return found

    def abandon(self, key: str, upload_id: str) -> None:
        """Let the server forget the parts; harmless when it has. Never raises for an outage."""
        with contextlib.suppress(UnavailableError), self._asking(f"abandoning {key}"):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    @contextlib.contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            said = f"object store {self._endpoint}: {code} while {doing}"
            if code in _REFUSED:
                raise ConfigurationError(
                    f"{said}: it needs s3:PutObject and s3:ListMultipartUploadParts on bucket "
                    f"{self._bucket} (containers/minio/policy.json)"
                ) from error
            if code == "NoSuchUpload":
                raise ForgottenError(f"{said}: the upload begins anew") from error
            raise UnavailableError(f"{said}. It is tried again") from error
        except BotoCoreError as error:
            raise UnavailableError(
                f"object store {self._endpoint}: no usable answer while {doing}: {error}. It is "
                "tried again"
            ) from error


class ForgottenError(UnavailableError):
    """The server no longer knows the upload: it was aborted, or the server lost it."""
