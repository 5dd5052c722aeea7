"""What the object store says when it is down, silent, wrongly addressed or forbids something."""

from __future__ import annotations

import io
import math
import socket
import time
from http.server import BaseHTTPRequestHandler

import pytest

from tests.fixtures.http import serve_handler
from tests.fixtures.s3 import free_port, through
from tests.fixtures.settings import make_settings
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.objectstore import ObjectStore


@pytest.fixture
def settings(tmp_path, s3_server):
    return make_settings(tmp_path, **s3_server.settings())


@pytest.fixture
def store(settings):
    made = ObjectStore(settings)
    made.ensure_bucket()
    return made


def test_check_measures_a_working_store(store, s3_server):
    health = store.check()
    assert health.ok, health.detail
    assert 0 < health.latency_s < 5
    assert s3_server.objects(store.bucket) == {}, "the probe is removed"


def test_check_reports_wrong_credentials_without_the_secret(tmp_path, settings):
    wrong = through(tmp_path, settings, settings.s3_endpoint, s3_secret_key="hush-hush")
    health = wrong.check()
    assert not health.ok
    assert math.isnan(health.latency_s)
    assert "correct s3_access_key and s3_secret_key" in health.detail or (
        "is wrong or lacks permission" in health.detail
    )
    assert "hush-hush" not in health.detail
    with pytest.raises(ConfigurationError, match=settings.s3_access_key):
        wrong.put_stream("x", io.BytesIO(b"1"), 1)


def test_a_store_that_is_down_is_reported_fast(tmp_path, settings):
    down = through(tmp_path, settings, f"127.0.0.1:{free_port()}")
    start = time.monotonic()
    health = down.check()
    assert time.monotonic() - start < 5
    assert not health.ok
    assert "Connection refused" in health.detail
    assert "make demo" in health.detail
    assert "object at 0x" not in health.detail


def test_a_store_that_never_answers_is_given_up(tmp_path, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        deaf = through(tmp_path, settings, endpoint, timeout_s=0.3)
        start = time.monotonic()
        with pytest.raises(UnavailableError, match="timed out"):
            deaf.ensure_bucket()
        assert time.monotonic() - start < 5


class Forbidding(BaseHTTPRequestHandler):
    """Answers as AWS does to credentials without permission, with a code and a text."""

    denial: tuple[str, str]

    def log_message(self, *_):
        pass

    def _deny(self):
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if self.path.endswith("?location=") or self.command == "HEAD":
            self._answer(200, b"<LocationConstraint>us-east-1</LocationConstraint>")
        else:
            code, text = self.denial
            body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
            self._answer({"AccessDenied": 403, "XMinioStorageFull": 507}.get(code, 409), body)

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _deny  # noqa: N815 (the names http.server calls)


@pytest.mark.parametrize(
    ("denial", "error", "says"),
    [
        (("AccessDenied", "no"), ConfigurationError, "lacks permission: it needs s3:ListBucket"),
        (("XMinioStorageFull", "full"), UnavailableError, "The store is full: free space"),
        (("SlowDown", "later"), UnavailableError, "Trying again later may help"),
    ],
)
def test_refusals_of_the_server_say_what_to_do(tmp_path, settings, denial, error, says):
    with serve_handler(type("Denying", (Forbidding,), {"denial": denial})) as server:
        denied = through(tmp_path, settings, f"127.0.0.1:{server.server_port}")
        with pytest.raises(error, match=says):
            denied.put_stream("x", io.BytesIO(b"1"), 1)


@pytest.mark.parametrize(
    ("endpoint", "bucket", "says"),
    [
        ("http://127.0.0.1:1", "fine", "must be host:port without a scheme"),
        ("127.0.0.1:1", "No_Good!", "Use 3 to 63 lower-case"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path, settings, endpoint, bucket, says):
    with pytest.raises(ConfigurationError, match=says):
        through(tmp_path, settings, endpoint, s3_bucket=bucket).ensure_bucket()
