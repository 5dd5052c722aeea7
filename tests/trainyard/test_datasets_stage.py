"""``fetch`` against a real S3 server and a real HTTP server: once, whole, or not at all."""

from __future__ import annotations

import io
import multiprocessing
from datetime import UTC, datetime, timedelta

import pytest

from tests.fixtures.faults import proxy_to
from tests.fixtures.http import serve_http
from tests.fixtures.settings import make_settings
from tests.fixtures.staging import ARCHIVE, MADE, MANIFEST, QUICK, file_url, site
from trainyard.datasets import Verdict, fetch, staged
from trainyard.objectstore import ObjectStore

__all__ = ["file_url", "site"]  # fixtures


def test_digits_are_fetched_from_the_installed_package(tmp_path, s3_server):
    settings = make_settings(tmp_path, **s3_server.settings())
    manifest = fetch("digits", settings=settings)
    assert {check.verdict for check in manifest.quality} == {Verdict.PASSED}
    assert [count.images for count in manifest.counts] == [1442, 355]
    assert manifest.licence.startswith("CC BY 4.0")
    assert manifest.source == "package://sklearn/datasets/data/digits.csv.gz"
    assert s3_server.objects(settings.s3_bucket) == {
        manifest.object_key: 57_523,
        manifest.key: len(ObjectStore(settings)._read(manifest.key)),
    }
    assert fetch("digits", settings=settings) == staged("digits", settings=settings) == manifest


def test_a_download_becomes_an_object_and_a_manifest_and_nothing_else(site):
    with serve_http(MADE.body) as http:
        manifest = fetch("tiny", settings=site.settings(http.url), patience=QUICK)
    assert sorted(site.objects()) == [ARCHIVE, MANIFEST]
    assert site.objects()[ARCHIVE] == len(MADE.body)
    assert (site.server.root / site.bucket / ARCHIVE).read_bytes() == MADE.body
    assert (manifest.digest, manifest.size_bytes) == (MADE.sha256, len(MADE.body))
    assert manifest.source == http.url
    assert len(manifest.verified) == 3
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.retrieved_at)
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)
    assert site.downloads() == []


def test_a_second_fetch_transfers_nothing(site):
    with serve_http(MADE.body) as http, proxy_to(site.server.endpoint) as proxy:
        settings = site.settings(http.url, endpoint=proxy.endpoint)
        first = fetch("tiny", settings=settings, patience=QUICK)
        proxy.up = proxy.down = 0
        proxy.requests.clear()
        asked = len(http.requests)
        assert fetch("tiny", settings=settings, patience=QUICK) == first
        assert len(http.requests) == asked
    assert {line.split()[0] for line in proxy.requests} == {"GET", "HEAD"}
    assert len(proxy.requests) == 3, "the bucket's region, the manifest, the archive's size"
    assert not any(line.startswith(f"GET /{site.bucket}/{ARCHIVE}") for line in proxy.requests)
    assert proxy.up + proxy.down < 10_000 < len(MADE.body)


def test_an_object_without_manifest_is_not_sent_again(site, file_url):
    settings = site.settings(file_url)
    first = fetch("tiny", settings=settings)
    ObjectStore(settings).remove(MANIFEST)
    (site.tmp_path / "tiny.tar.gz").unlink()
    with proxy_to(site.server.endpoint) as proxy:
        again = fetch("tiny", settings=site.settings(file_url, endpoint=proxy.endpoint))
    assert not any(line.startswith("PUT") and ARCHIVE in line for line in proxy.requests)
    assert again.quality == first.quality
    assert sorted(site.objects()) == [ARCHIVE, MANIFEST]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_manifest_whose_archive_is_lost_does_not_count(site, file_url, damage):
    settings = site.settings(file_url)
    fetch("tiny", settings=settings)
    store = ObjectStore(settings)
    if damage == "gone":
        store.remove(ARCHIVE)
    else:
        store.put_stream(ARCHIVE, io.BytesIO(MADE.body), 100)
    assert staged("tiny", settings=settings) is None
    fetch("tiny", settings=settings)
    assert (site.server.root / site.bucket / ARCHIVE).read_bytes() == MADE.body


@pytest.mark.parametrize("text", [{"schema_version": 0}, {"schema_version": 1}, []])
def test_a_manifest_of_another_version_is_written_again(site, file_url, text):
    settings = site.settings(file_url)
    wanted = fetch("tiny", settings=settings)
    ObjectStore(settings).put_json(MANIFEST, text)
    assert fetch("tiny", settings=settings).quality == wanted.quality
    assert staged("tiny", settings=settings) is not None


def _fetch_in_process(path, ready, go, answers):
    from trainyard.settings import load_settings

    ready.release()
    go.wait(20)
    answers.put(fetch("tiny", settings=load_settings(path), patience=QUICK).digest)


def test_two_fetches_at_once_do_the_work_once(site):
    with serve_http(MADE.body) as http, proxy_to(site.server.endpoint) as proxy:
        site.settings(http.url, endpoint=proxy.endpoint)
        spawn = multiprocessing.get_context("spawn")
        ready, go, answers = spawn.Semaphore(0), spawn.Event(), spawn.Queue()
        told = (site.tmp_path / "settings.toml", ready, go, answers)
        both = [spawn.Process(target=_fetch_in_process, args=told) for _ in range(2)]
        for one in both:
            one.start()
        for _ in both:
            assert ready.acquire(timeout=60)
        go.set()
        assert [answers.get(timeout=60) for _ in both] == [MADE.sha256] * 2
        for one in both:
            one.join(10)
    assert len(http.requests) == 1
    assert sum(line.startswith("PUT") and ARCHIVE in line for line in proxy.requests) == 1
    assert sorted(site.objects()) == [ARCHIVE, MANIFEST]
