"""``fetch`` against a real S3 server and a real HTTP server: once, whole, or not at all."""

from __future__ import annotations

import io
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.fixtures.datasets import tar_gz, tiny
from tests.fixtures.faults import proxy_to
from tests.fixtures.http import serve_http
from tests.fixtures.settings import make_settings
from tests.trainyard.test_datasets_archive import HOSTILE
from trainyard.datasets import Verdict, fetch, staged
from trainyard.datasets.download import Patience
from trainyard.errors import ConfigurationError, DatasetError, UnavailableError
from trainyard.objectstore import ObjectStore

MADE = tiny()
ARCHIVE = f"datasets/sha256/{MADE.sha256}"
MANIFEST = f"manifests/tiny/{MADE.sha256}.json"
QUICK = Patience(connect_s=1, read_s=2, attempts=2, pause_s=0.01)


class Site:
    """Settings for one test, with [tiny] in the catalogue, and what lies in its bucket."""

    def __init__(self, tmp_path, s3_server):
        self.tmp_path, self.server = tmp_path, s3_server
        self.fields = s3_server.settings()
        self.bucket = self.fields["s3_bucket"]

    def settings(self, url, made=MADE, endpoint=None, changes=None, **fields):
        catalogue = made.catalogue(self.tmp_path / "datasets.toml", url, **(changes or {}))
        more = {"s3_endpoint": endpoint} if endpoint else {}
        return make_settings(
            self.tmp_path, **(self.fields | more | fields), datasets_file=catalogue
        )

    def objects(self):
        return self.server.objects(self.bucket)

    def downloads(self):
        folder = self.tmp_path / "downloads"
        return sorted(path.name for path in folder.iterdir() if path.name != "locks")


@pytest.fixture
def site(tmp_path, s3_server):
    return Site(tmp_path, s3_server)


@pytest.fixture
def file_url(tmp_path):
    path = tmp_path / "tiny.tar.gz"
    path.write_bytes(MADE.body)
    return path.as_uri()


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


STEPS = {
    "bucket look-up": (lambda line: "location=" in line, []),
    "bucket creation": (lambda line: line.startswith("PUT") and line.count("/") == 2, []),
    "manifest look-up": (lambda line: line.startswith("GET") and "manifests/" in line, []),
    "archive look-up": (lambda line: line.startswith("HEAD") and "datasets/" in line, []),
    "archive put": (lambda line: line.startswith("PUT") and "datasets/" in line, []),
    "manifest put": (lambda line: line.startswith("PUT") and "manifests/" in line, [ARCHIVE]),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_store_that_fails_at_one_step_leaves_no_manifest_and_the_next_try_works(
    site, file_url, step
):
    refuse, left = STEPS[step]
    if step != "bucket creation":
        ObjectStore(site.settings(file_url)).ensure_bucket()
    with proxy_to(site.server.endpoint) as proxy:
        proxy.refuse = refuse
        settings = site.settings(file_url, endpoint=proxy.endpoint)
        with pytest.raises(UnavailableError, match="no usable answer while"):
            fetch("tiny", settings=settings)
        assert sorted(site.objects()) == left
        proxy.refuse = lambda line: False
        assert fetch("tiny", settings=settings).digest == MADE.sha256
    assert sorted(site.objects()) == [ARCHIVE, MANIFEST]


PARTS = {
    "first request": lambda line: line.startswith("POST") and "uploads" in line,
    "a part": lambda line: "partNumber=2" in line,
    "completion": lambda line: line.startswith("POST") and "uploadId" in line,
}


@pytest.mark.parametrize("step", PARTS)
def test_a_multipart_upload_that_breaks_shows_nothing(site, step):
    made = tiny(per_batch=2_000, batches=2, test=40)  # 12 MB: two parts
    path = site.tmp_path / "large.tar.gz"
    path.write_bytes(made.body)
    with proxy_to(site.server.endpoint) as proxy:
        proxy.refuse = PARTS[step]
        settings = site.settings(path.as_uri(), made, endpoint=proxy.endpoint)
        with pytest.raises(UnavailableError, match="while storing datasets/sha256"):
            fetch("tiny", settings=settings)
        assert site.objects() == {}
        proxy.refuse = lambda line: False
        fetch("tiny", settings=settings)
    assert site.objects()[f"datasets/sha256/{made.sha256}"] == len(made.body)


def test_a_download_survives_a_store_that_is_down_and_is_not_repeated(site):
    with serve_http(MADE.body) as http, proxy_to(site.server.endpoint) as proxy:
        settings = site.settings(http.url, endpoint=proxy.endpoint)
        proxy.refuse = STEPS["archive put"][0]
        with pytest.raises(UnavailableError):
            fetch("tiny", settings=settings, patience=QUICK)
        proxy.refuse = lambda line: False
        fetch("tiny", settings=settings, patience=QUICK)
        assert http.sent == len(MADE.body), "the second try used the file that was there"
    assert site.downloads() == []


def test_a_killed_fetch_leaves_nothing_visible_and_the_next_one_resumes(site):
    body = tiny(per_batch=800, batches=2).body
    made = tiny(per_batch=800, batches=2)
    with serve_http(body, stop_after=[1_500_000], statuses=[0] + [503] * 40) as http:
        settings = site.settings(http.url, made)
        text = (
            "import sys, pathlib\n"
            "from trainyard.settings import load_settings\n"
            "from trainyard.datasets import fetch\n"
            "fetch('tiny', settings=load_settings(pathlib.Path(sys.argv[1])))\n"
        )
        argv = [sys.executable, "-c", text, str(site.tmp_path / "settings.toml")]
        with subprocess.Popen(argv) as child:
            part = site.tmp_path / "downloads" / f"{made.sha256}.part"
            deadline = time.monotonic() + 30
            while not part.exists() or part.stat().st_size < 1_500_000:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
        assert site.objects() == {}
        http.behaviour.statuses.clear()
        fetch("tiny", settings=settings, patience=QUICK)
        assert http.sent == len(body), "only the rest was asked for"
    assert sorted(site.objects())[0] == f"datasets/sha256/{made.sha256}"


def test_wrong_credentials_stop_before_any_download(site):
    with serve_http(MADE.body) as http:
        settings = site.settings(http.url, s3_secret_key="not-the-secret")
        with pytest.raises(ConfigurationError, match=r"s3_access_key|lacks permission"):
            fetch("tiny", settings=settings, patience=QUICK)
        assert http.requests == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_not_staged(site, kind):
    body, says = HOSTILE[kind]
    hostile = type(MADE)(body, *(getattr(MADE, name) for name in list(MADE.__dict__)[1:]))
    with serve_http(body) as http, pytest.raises(DatasetError) as caught:
        fetch("tiny", settings=site.settings(http.url, hostile), patience=QUICK)
    assert says in str(caught.value)
    assert site.objects() == {}


def test_an_archive_that_fails_a_quality_check_is_not_staged(site):
    leaky = tiny(repeats=True)
    with serve_http(leaky.body) as http, pytest.raises(DatasetError) as caught:
        fetch("tiny", settings=site.settings(http.url, leaky), patience=QUICK)
    assert "duplicates_across_splits: 20 test images (100.000%)" in str(caught.value)
    assert site.objects() == {}


def test_a_wrong_checksum_is_not_staged(site):
    with serve_http(MADE.body) as http, pytest.raises(DatasetError, match="SHA-256 is"):
        fetch(
            "tiny", settings=site.settings(http.url, changes={"sha256": "a" * 64}), patience=QUICK
        )
    assert site.objects() == {}
    assert site.downloads() == []


def test_a_file_that_changes_between_check_and_upload_is_not_staged(site, file_url, monkeypatch):
    path = site.tmp_path / "tiny.tar.gz"

    def change(*_):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    from trainyard.datasets import stage

    inspect = stage._inspect
    monkeypatch.setattr(stage, "_inspect", lambda *told: (inspect(*told), change())[0])
    with pytest.raises(DatasetError, match="changed since it was verified"):
        fetch("tiny", settings=site.settings(file_url))
    assert site.objects() == {}


def test_a_full_disk_while_inspecting(site, file_url, file_size_limit):
    settings = site.settings(file_url)
    with file_size_limit(50_000), pytest.raises(UnavailableError, match="no room for"):
        fetch("tiny", settings=settings)
    assert site.objects() == {}
    assert site.downloads() == []
    fetch("tiny", settings=settings)


def test_a_disk_too_small_for_the_download_says_so_first(site, small_disk):
    large = tiny(per_batch=500)
    with serve_http(large.body) as http:
        settings = site.settings(http.url, large, downloads_dir=str(small_disk))
        with pytest.raises(UnavailableError, match=r"checked before writing.*downloads_dir"):
            fetch("tiny", settings=settings, patience=QUICK)
        assert http.requests == []


def test_progress_names_each_step(site):
    seen = []
    with serve_http(MADE.body) as http:
        settings = site.settings(http.url)
        fetch("tiny", settings=settings, progress=lambda *step: seen.append(step), patience=QUICK)
    assert seen[0][0] == "download of tiny"
    assert (f"upload of {ARCHIVE}", len(MADE.body), len(MADE.body)) in seen


def test_no_thread_is_left_behind(site, file_url):
    before = threading.active_count()
    fetch("tiny", settings=site.settings(file_url))
    assert threading.active_count() == before


def test_an_archive_with_other_content_than_described(site):
    body = tar_gz({"pictures/readme.html": b"<p>"})
    other = type(MADE)(body, *(getattr(MADE, name) for name in list(MADE.__dict__)[1:]))
    with serve_http(body) as http, pytest.raises(DatasetError, match="binary version"):
        fetch("tiny", settings=site.settings(http.url, other), patience=QUICK)
    assert site.objects() == {}


@pytest.mark.slow
def test_memory_stays_flat_from_download_to_manifest(site):
    """A 200 MB archive, in a fresh process: interpreter, libraries and all."""
    made = tiny(per_batch=16_000, batches=4, test=1_000, level=0)
    with serve_http(made.body) as http:
        site.settings(http.url, made)
        text = (
            "import sys, pathlib\n"
            "from trainyard.settings import load_settings\n"
            "from trainyard.datasets import fetch\n"
            "fetch('tiny', settings=load_settings(pathlib.Path(sys.argv[1])))\n"
            "rows = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
            "print(next(row for row in rows if row.startswith('VmHWM')).split()[1])\n"
        )
        argv = [sys.executable, "-c", text, str(site.tmp_path / "settings.toml")]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) * 1024 <= 200_000_000
