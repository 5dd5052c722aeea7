"""Downloads against a real HTTP server that misbehaves in the ways real ones do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.fixtures.datasets import tiny
from tests.fixtures.http import serve_http
from tests.fixtures.s3 import free_port
from trainyard.datasets.download import Patience, discard, obtain
from trainyard.errors import DatasetError, UnavailableError
from trainyard.files import ignore_progress

BODY = tiny().body
QUICK = Patience(connect_s=1, read_s=2, attempts=3, pause_s=0.01)


def get(server, downloads, patience=QUICK, progress=ignore_progress, **changes):
    return obtain(tiny().source(server.url, **changes), downloads, progress, patience)


def left(downloads):
    return sorted(path.name for path in downloads.iterdir())


def test_a_whole_file_arrives_in_one_request(tmp_path):
    seen = []
    with serve_http(BODY) as server:
        path = get(server, tmp_path, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == BODY
    assert len(server.requests) == 1
    assert server.requests[0]["Accept-Encoding"] == "identity"
    assert get(server, tmp_path) == path, (
        "the server is gone: what is complete is not fetched again"
    )
    discard(tiny().source(server.url), tmp_path)
    assert left(tmp_path) == []
    assert seen[-1] == ("download of tiny", len(BODY), len(BODY))


def test_a_server_that_stops_midway_is_asked_for_the_rest_only(tmp_path):
    with serve_http(BODY, stop_after=[100_000, 50_000]) as server:
        path = get(server, tmp_path)
    assert path.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert [request.get("If-Range") for request in server.requests[1:]] == ['"v1"', '"v1"']
    assert server.sent == len(BODY), "not one byte came twice"


def test_the_next_call_resumes_what_an_earlier_one_left(tmp_path):
    with serve_http(BODY, stop_after=[123_456], statuses=[0, 500, 500, 500]) as server:
        with pytest.raises(UnavailableError) as caught:
            get(server, tmp_path)
        assert "stopped after 123,456 of" in str(caught.value)
        assert "HTTP 500" in str(caught.value)
        assert "run it again to resume" in str(caught.value)
        kept = tmp_path / f"{tiny().sha256}.part"
        assert kept.read_bytes() == BODY[:123_456]
        path = get(server, tmp_path)
        assert path.read_bytes() == BODY
        assert server.requests[-1]["Range"] == "bytes=123456-"
        assert server.sent == len(BODY)


def test_a_server_that_ignores_ranges_sends_all_again_and_it_is_right(tmp_path):
    with serve_http(BODY, ranges=False, stop_after=[100_000]) as server:
        path = get(server, tmp_path)
    assert path.read_bytes() == BODY
    assert server.sent == len(BODY) + 100_000


def test_a_file_that_changed_meanwhile_is_taken_whole(tmp_path):
    old = bytes(len(BODY))
    with serve_http(old, stop_after=[100_000], statuses=[0, 503, 503, 503]) as server:
        with pytest.raises(UnavailableError):
            get(server, tmp_path)
        server.behaviour.body, server.behaviour.etag = BODY, '"v2"'
        path = get(server, tmp_path)
        assert path.read_bytes() == BODY
        assert server.requests[-1]["If-Range"] == '"v1"'


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_the_date_names_the_version(tmp_path, etag):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    with serve_http(BODY, etag=etag, last_modified=date, stop_after=[100_000]) as server:
        assert get(server, tmp_path).read_bytes() == BODY
    assert server.requests[1]["If-Range"] == date


def test_without_any_version_the_digest_judges_the_resumed_file(tmp_path):
    with serve_http(BODY, etag="", stop_after=[100_000]) as server:
        assert get(server, tmp_path).read_bytes() == BODY
    assert "If-Range" not in server.requests[1]
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_a_damaged_leftover_costs_a_second_download_not_a_failure(tmp_path):
    with serve_http(BODY) as server:
        note = {"url": server.url, "validator": '"v1"'}
        (tmp_path / f"{tiny().sha256}.part").write_bytes(b"\0" * 5_000)
        (tmp_path / f"{tiny().sha256}.part.json").write_text(json.dumps(note))
        assert get(server, tmp_path).read_bytes() == BODY
        assert [request.get("Range") for request in server.requests] == ["bytes=5000-", None]


@pytest.mark.parametrize("note", ["", "{}", '{"url": "http://else.where/", "validator": ""}', "[]"])
def test_a_leftover_that_belongs_to_nothing_known_is_not_used(tmp_path, note):
    (tmp_path / f"{tiny().sha256}.part").write_bytes(BODY[:5_000])
    (tmp_path / f"{tiny().sha256}.part.json").write_text(note)
    with serve_http(BODY) as server:
        assert get(server, tmp_path).read_bytes() == BODY
    assert "Range" not in server.requests[0]


@pytest.mark.parametrize("change", ["wrong_range", "416"])
def test_a_range_that_does_not_fit_starts_over(tmp_path, change):
    with serve_http(BODY, stop_after=[100_000]) as server:
        if change == "wrong_range":
            server.behaviour.wrong_range = True
        else:
            server.behaviour.statuses = [0, 416]
        assert get(server, tmp_path).read_bytes() == BODY
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert "Range" not in server.requests[2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"sha256": "0" * 64}, "SHA-256 is .*, expected 0000"), ({"md5": "1" * 32}, "MD5 is .*1111")],
)
def test_a_wrong_checksum_leaves_nothing(tmp_path, changes, says):
    with serve_http(BODY) as server, pytest.raises(DatasetError, match=says) as caught:
        get(server, tmp_path, **changes)
    assert "published by: this test" in str(caught.value)
    assert left(tmp_path) == []


def test_a_truncated_file_is_known_by_its_announced_size(tmp_path):
    with (
        serve_http(BODY, lie=100_000) as server,
        pytest.raises(DatasetError, match="announces 100,000 bytes, published are"),
    ):
        get(server, tmp_path)
    assert left(tmp_path) == []
    assert len(server.requests) == 1


def test_a_truncated_file_without_announced_size_is_known_by_its_end(tmp_path):
    with (
        serve_http(BODY, lie=100_000, announce=False) as server,
        pytest.raises(UnavailableError, match=r"stopped after [\d,]+ of"),
    ):
        get(server, tmp_path)


def test_more_bytes_than_published_stop_the_download_at_once(tmp_path):
    with (
        serve_http(BODY + b"!" * 3_000_000, announce=False) as server,
        pytest.raises(DatasetError, match=r"more than the .* bytes that were published"),
    ):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_an_address_that_is_gone_is_not_asked_twice(tmp_path):
    with (
        serve_http(BODY, statuses=[404]) as server,
        pytest.raises(DatasetError, match=r"HTTP 404.*name a mirror"),
    ):
        get(server, tmp_path)
    assert len(server.requests) == 1


def test_a_server_that_fails_for_good_is_left_after_the_attempts_allowed(tmp_path):
    with (
        serve_http(BODY, statuses=[500] * 9) as server,
        pytest.raises(UnavailableError, match="3 attempts in a row"),
    ):
        get(server, tmp_path)
    assert len(server.requests) == 3


def test_retry_after_is_obeyed(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("trainyard.datasets.download.time.sleep", waited.append)
    with serve_http(BODY, statuses=[503, 503], retry_after="7") as server:
        get(server, tmp_path)
    assert waited == [7.0, 7.0]


def test_waits_double_and_start_again_after_progress(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("trainyard.datasets.download.time.sleep", waited.append)
    with serve_http(BODY, statuses=[500, 500, 0, 500], stop_after=[10_000]) as server:
        get(server, tmp_path, replace(QUICK, attempts=4, pause_s=1.0))
    assert waited == [1.0, 2.0, 1.0, 2.0]


def test_a_server_that_falls_silent_is_given_up_in_bounded_time(tmp_path):
    with (
        serve_http(BODY, stall_s=1.0) as server,
        pytest.raises(UnavailableError, match="stopped after"),
    ):
        get(server, tmp_path, replace(QUICK, read_s=0.2, attempts=1))
    half = tmp_path / f"{tiny().sha256}.part"
    assert 0 < half.stat().st_size < len(BODY)


def test_nobody_listening(tmp_path):
    source = tiny().source(f"http://127.0.0.1:{free_port()}/x")
    with pytest.raises(UnavailableError, match="Connection refused"):
        obtain(source, tmp_path, ignore_progress, QUICK)


def test_a_disk_that_fills_while_bytes_arrive(tmp_path, file_size_limit):
    with (
        serve_http(BODY) as server,
        file_size_limit(200_000),
        pytest.raises(UnavailableError) as caught,
    ):
        get(server, tmp_path)
    text = str(caught.value)
    assert "no room for download of tiny" in text
    assert str(tmp_path) in text
    assert f"needs {len(BODY):,} bytes" in text
    assert "Free " in text
    assert (tmp_path / f"{tiny().sha256}.part").read_bytes() == BODY[:200_000]


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(small_disk):
    with (
        serve_http(BODY * 9) as server,
        pytest.raises(UnavailableError, match="checked before writing"),
    ):
        get(server, small_disk, size_bytes=len(BODY) * 9)
    assert server.requests == []


def test_a_local_file_is_verified_too(tmp_path):
    path = tmp_path / "mine with space.tar.gz"
    path.write_bytes(BODY)
    source = tiny().source(path.as_uri())
    assert obtain(source, tmp_path, ignore_progress, QUICK) == path
    path.write_bytes(BODY[:-1])
    with pytest.raises(DatasetError, match="truncated or another version"):
        obtain(source, tmp_path, ignore_progress, QUICK)
    assert path.exists(), "a user's own file is never removed"
