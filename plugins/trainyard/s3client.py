"""Making the ``minio`` client, and turning its exceptions into errors a user can act on."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import urllib3

from trainyard.errors import ConfigurationError, DatasetError, UnavailableError

if TYPE_CHECKING:
    from minio import Minio

    from trainyard.settings import Settings

STORE_ERRORS = (UnavailableError, ConfigurationError)
_ABSENT = {"NoSuchKey", "NoSuchObject", "NoSuchBucket", "ResourceNotFound"}
_CREDENTIALS = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "InsufficientData"}
_HTTP_NO_ROOM = 507
CONNECT_TIMEOUT_S = 3.0


class ObjectMissingError(UnavailableError):
    """The store answers, and has no such object or bucket."""


class WatchedPool(urllib3.PoolManager):
    """A connection pool that remembers a final failure, so that an upload stops at once.

    ``minio`` reads a stream to its end before it looks whether a part failed; with 100 GB to go
    that would be minutes of reading for nothing.
    """

    failure: BaseException | None = None

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:  # type: ignore[override]
        """Send one request; what is raised here comes after all retries."""
        try:
            response = super().urlopen(method, url, redirect, **kw)
        except Exception as error:
            self.failure = error
            raise
        kind = response.headers.get("content-type", "")
        if kind.startswith("text/xml"):
            # rclone says text/xml where S3 says application/xml; the client reads error codes
            # from the latter only.
            response.headers["content-type"] = "application/xml"
        return response

    def stop(self) -> BaseException | None:
        """Return why a running upload should be given up, or None."""
        return self.failure


def pool(timeout_s: float) -> WatchedPool:
    """Return a connection pool that gives up: 3 s to connect, *timeout_s* for an answer, 2 retries.

    The client's own default waits five minutes, five times.
    """
    import certifi

    return WatchedPool(
        timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
        retries=urllib3.Retry(
            total=2, read=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]
        ),
        maxsize=8,
        cert_reqs="CERT_REQUIRED",
        ca_certs=certifi.where(),
    )


def make(settings: Settings, http: WatchedPool) -> Minio:
    """Return a client for the store that *settings* names; nothing is asked of it yet."""
    from minio import Minio

    try:
        return Minio(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            secure=settings.s3_secure,
            http_client=http,
        )
    except ValueError as error:
        raise ConfigurationError(
            f"s3_endpoint = {settings.s3_endpoint!r}: {error}. It must be host:port without a "
            "scheme; TLS is chosen by s3_secure. Correct the settings file"
        ) from error


def create_bucket(client: Minio, bucket: str) -> None:
    """Create *bucket*; somebody else having created it meanwhile is success."""
    from minio.error import S3Error

    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise


class Mapped:
    """Context manager that turns the client's exceptions into ours, naming what was being done."""

    def __init__(self, settings: Settings, doing: str) -> None:
        """*doing* completes "the object store … while …"."""
        self._settings = settings
        self._doing = doing

    def __enter__(self) -> Mapped:
        """Start mapping."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Raise the mapped error, or let one that is none of the store's pass."""
        if not isinstance(error, Exception):
            return
        from minio.error import MinioException, S3Error

        if isinstance(error, S3Error):
            raise self._s3_error(error) from error
        if isinstance(error, urllib3.exceptions.HTTPError):
            raise self._silent(_innermost(error)) from error
        if isinstance(error, MinioException):
            raise self._silent(str(error)) from error
        if isinstance(error, ValueError) and "bucket name" in str(error):
            raise ConfigurationError(
                f"s3_bucket = {self._settings.s3_bucket!r}: {error}. Use 3 to 63 lower-case "
                "letters, digits and hyphens, and correct the settings file"
            ) from error

    def _silent(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"object store {self._settings.s3_endpoint}: no usable answer while {self._doing}: "
            f"{why}. Start it (`make demo` starts the local stack) or correct s3_endpoint and "
            "s3_secure in the settings file; what was transferred so far is kept or invisible"
        )

    def _s3_error(self, error: Any) -> Exception:
        store, code = self._settings.s3_endpoint, str(error.code)
        said = f"object store {store}: {code} while {self._doing}: {error.message}"
        status = getattr(error.response, "status", 0)
        if code in _CREDENTIALS:
            return ConfigurationError(
                f"{said}. Access key {self._settings.s3_access_key!r} or its secret is wrong: "
                "correct s3_access_key and s3_secret_key in the settings file"
            )
        if code in {"AccessDenied", "AllAccessDisabled"}:
            return ConfigurationError(
                f"{said}. Access key {self._settings.s3_access_key!r} is wrong or lacks "
                f"permission: it needs s3:ListBucket, s3:GetBucketLocation, s3:GetObject, "
                f"s3:PutObject and s3:DeleteObject on bucket {self._settings.s3_bucket}, and "
                "s3:CreateBucket where the bucket does not exist yet"
            )
        if code in _ABSENT:
            return ObjectMissingError(
                f"{said}. Stage it again: trigger fetch_dataset, or the step that writes it"
            )
        if code == "InvalidRange":
            return DatasetError(
                f"{said}: the object is shorter than the expected size, so it is damaged. Remove "
                "it from the bucket and stage it again"
            )
        if code in _FULL or status == _HTTP_NO_ROOM:
            return UnavailableError(f"{said}. The store is full: free space in it, then retry")
        return UnavailableError(f"{said}. Trying again later may help; its log says more")


def _innermost(error: BaseException) -> str:
    """Return the text of the failure behind urllib3's wrappers, without object addresses."""
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    text = str(inner)
    return text.split(": ", 1)[1] if text.startswith(("<", "HTTP")) and ": " in text else text
