"""``fetch`` when something breaks: no manifest, no half object, and the next try works."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.fixtures.datasets import tar_gz, tiny
from tests.fixtures.faults import proxy_to
from tests.fixtures.http import serve_http
from tests.fixtures.staging import ARCHIVE, MADE, MANIFEST, QUICK, file_url, site
from tests.trainyard.test_datasets_archive import HOSTILE
from trainyard.datasets import fetch
from trainyard.errors import ConfigurationError, DatasetError, UnavailableError
from trainyard.objectstore import ObjectStore

__all__ = ["file_url", "site"]  # fixtures


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
