"""Versions: numbers that never change their digest, aliases resolved once, deletion refused."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.runs import SPEC
from tests.fixtures.datasets import tiny
from tests.fixtures.staging import MADE, site
from trainer.contract import Dataset, decode
from trainyard.datasets import fetch_version, prepare
from trainyard.datasets.__main__ import main
from trainyard.datasets.cache import cached, open_cache
from trainyard.datasets.compare import differences
from trainyard.datasets.manifest import Manifest, QualityCheck, SplitCount, Verdict
from trainyard.datasets.versions import Reference, delete, versions
from trainyard.errors import ConfigurationError, DatasetError, UnavailableError
from trainyard.objectstore import ObjectStore
from trainyard.store import RunRow, migrate, open_store
from trainyard.store.storage import register_version

__all__ = ["site"]  # a fixture
OTHER = tiny(seed=1, per_batch=45)


def stage_file(tmp_path, made, name):
    path = tmp_path / name
    path.write_bytes(made.body)
    return path.as_uri()


@pytest.fixture
def first(site, tmp_path):
    """Settings whose catalogue holds the first archive; the database is there."""
    settings = site.settings(stage_file(tmp_path, MADE, "one.tar.gz"))
    with open_store(settings.results_url) as store:
        migrate(store)
    return settings


def second(site, tmp_path):
    """The same installation after somebody changed the catalogue to another archive."""
    return site.settings(stage_file(tmp_path, OTHER, "two.tar.gz"), OTHER)


class TestReference:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("digits", Reference(name="digits")),
            ("digits@latest", Reference(name="digits", latest=True)),
            ("my_set-2@v12", Reference(name="my_set-2", version=12)),
        ],
    )
    def test_forms(self, text, expected):
        assert Reference.parse(text) == expected

    @pytest.mark.parametrize(
        "text", ["", "@v1", "a@", "a@1", "a@v0", "a@v01", "A@v1", "a/b", "a@v1\n"]
    )
    def test_what_is_none(self, text):
        with pytest.raises(ConfigurationError, match="write name, name@latest or name@v1"):
            Reference.parse(text)


class TestVersions:
    def test_a_number_names_one_digest_for_ever(self, site, first, tmp_path):
        one, v1 = fetch_version("tiny", settings=first)
        again, same = fetch_version("tiny", settings=first)
        assert (str(v1), one.version, v1) == ("tiny@v1", 1, same)
        assert again == one
        later = second(site, tmp_path)
        two, v2 = fetch_version("tiny", settings=later)
        assert str(v2) == "tiny@v2"
        # The catalogue names another archive by now; version 1 is still what it was.
        old, v = fetch_version("tiny@v1", settings=later)
        assert (old.digest, str(v)) == (MADE.sha256, "tiny@v1")
        assert fetch_version("tiny@latest", settings=first)[0].digest == two.digest == OTHER.sha256
        assert [version.digest for version in versions(later, "tiny")] == [one.digest, two.digest]

    def test_the_object_store_says_the_same(self, first):
        manifest, _ = fetch_version("tiny", settings=first)
        document = ObjectStore(first).get_json("manifests/tiny/v1.json")
        assert decode(Manifest, document, "manifest") == manifest

    def test_latest_of_nothing_is_the_catalogues(self, first):
        assert str(fetch_version("tiny@latest", settings=first)[1]) == "tiny@v1"

    @pytest.mark.parametrize("text", ["tiny@v2", "other@v1"])
    def test_a_version_that_does_not_exist(self, first, text):
        fetch_version("tiny", settings=first)
        with pytest.raises(ConfigurationError, match="does not exist; choose from"):
            fetch_version(text, settings=first)

    def test_an_archive_that_is_gone_is_fetched_again_while_the_catalogue_has_it(
        self, site, first, tmp_path
    ):
        manifest, _ = fetch_version("tiny", settings=first)
        ObjectStore(first).remove(manifest.object_key)
        assert fetch_version("tiny@v1", settings=first)[0].digest == manifest.digest
        assert ObjectStore(first).exists(manifest.object_key)
        ObjectStore(first).remove(manifest.object_key)
        with pytest.raises(ConfigurationError, match="catalogue names another one by now"):
            fetch_version("tiny@v1", settings=second(site, tmp_path))

    def test_many_hosts_register_at_once(self, results_url):
        with open_store(results_url) as store:
            migrate(store)
        found: list[tuple[str, int]] = []

        def register(digest):
            with open_store(results_url) as store:
                found.append((digest, register_version(store, "tiny", digest)))

        threads = [threading.Thread(target=register, args=(d,)) for d in "aabbccdd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numbers = dict(found)
        assert len(found) == 8
        assert sorted(numbers.values()) == [1, 2, 3, 4]
        assert all(numbers[digest] == number for digest, number in found)


class TestDelete:
    def test_everything_of_it_goes_and_the_number_stays_taken(self, site, first, tmp_path):
        manifest, _ = fetch_version("tiny", settings=first)
        cache = open_cache(tmp_path / "cache", "1 GB")
        cached(manifest, cache, first).release()
        assert ObjectStore(first).keys("prepared/")
        assert str(delete(first, "tiny@v1")) == "tiny@v1"
        assert site.objects() == {}
        with pytest.raises(ConfigurationError, match="tiny@v1 was deleted"):
            fetch_version("tiny@v1", settings=first)
        assert str(fetch_version("tiny", settings=second(site, tmp_path))[1]) == "tiny@v2"

    def test_what_results_refer_to_stays(self, site, first):
        manifest, _ = fetch_version("tiny", settings=first)
        spec = replace(SPEC, dataset=Dataset.DIGITS, dataset_digest=manifest.digest)
        with open_store(first.results_url) as store:
            store.save_run(
                RunRow(run_id="r1", site="s", launcher="process", status="failed", spec=spec)
            )
        before = site.objects()
        with pytest.raises(ConfigurationError, match=r"measured on \(r1\); it stays"):
            delete(first, "tiny@v1")
        assert site.objects() == before
        assert fetch_version("tiny@v1", settings=first)[0].digest == manifest.digest

    @pytest.mark.parametrize("text", ["tiny", "tiny@latest"])
    def test_an_alias_is_not_enough(self, first, text):
        fetch_version("tiny", settings=first)
        with pytest.raises(ConfigurationError, match="name the version to delete"):
            delete(first, text)


class TestDifferences:
    def manifests(self, site, first, tmp_path):
        return (
            fetch_version("tiny", settings=first)[0],
            fetch_version("tiny", settings=second(site, tmp_path))[0],
        )

    def test_none(self, first):
        manifest, _ = fetch_version("tiny", settings=first)
        assert differences(manifest, manifest) == []

    def test_counts_bytes_and_quality(self, site, first, tmp_path):
        old, new = self.manifests(site, first, tmp_path)
        lines = differences(old, new)
        assert f"bytes: {len(MADE.body):,} -> {len(OTHER.body):,}" in lines[0]
        assert "train images: 120 -> 135" in lines
        assert "train ant: 24 -> 27" in lines
        assert any(line.startswith("count_train: passed, 120") for line in lines)

    def test_classes_and_balance(self, first):
        old, _ = fetch_version("tiny", settings=first)
        renamed = replace(old, classes=("ant", "bee", "cat", "dog", "fly"))
        assert differences(old, renamed) == ["classes gone: eel", "classes new: fly"]
        turned = replace(old, classes=old.classes[::-1])
        assert differences(old, turned)[0].startswith("classes in another order: eel, dog")
        uneven = SplitCount(split="train", images=120, per_class=(12, 36, 24, 24, 24))
        lines = differences(old, replace(old, counts=(uneven, old.counts[1])))
        assert lines[0] == "train smallest / largest class: 1.000 -> 0.333"
        assert lines[1:] == ["train ant: 24 -> 12", "train bee: 24 -> 36"]

    def test_checks_that_came_and_went(self, first):
        old, _ = fetch_version("tiny", settings=first)
        check = QualityCheck(name="extra", verdict=Verdict.WARN, measured="3 %", requirement="0")
        more = replace(old, quality=(*old.quality, check))
        assert differences(old, more) == ["extra: warn, 3 % (not checked before)"]
        assert differences(more, old) == ["extra: no longer checked (warn before)"]


class TestCacheFromTheStore:
    def test_a_miss_reads_prepared_arrays_and_prepares_them_only_once(self, site, first, tmp_path):
        manifest, _ = fetch_version("tiny", settings=first)
        made = prepare(manifest, tmp_path / "shared", first)
        one, two = (open_cache(tmp_path / name, "1 GB") for name in ("node1", "node2"))
        with cached(manifest, one, first) as lease:
            assert not lease.hit
            for path in made.iterdir():
                assert (lease.folder / path.name).read_bytes() == path.read_bytes()
        # The second node needs no archive any more: it could not unpack it.
        ObjectStore(first).remove(manifest.object_key)
        with cached(manifest, two, first) as lease, cached(manifest, two, first) as again:
            assert (lease.hit, again.hit) == (False, True)
        # And the trainer finds the same entry from the shared folder.
        from trainer.cache import DESCRIPTION, DatasetEntry

        entry = DatasetEntry.read((made / DESCRIPTION).read_bytes(), "here")
        assert [one.key for one in two.entries()] == [entry.key]

    def test_a_damaged_object_leaves_no_entry(self, site, first, tmp_path):
        manifest, _ = fetch_version("tiny", settings=first)
        cache = open_cache(tmp_path / "cache", "1 GB")
        cached(manifest, cache, first).release()
        (entry,) = cache.entries()
        cache.evict(entry.key)
        key = next(k for k in site.objects() if k.endswith("test_images.npy"))
        path = Path(site.server.root) / site.bucket / key
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.write_bytes(body)
        with pytest.raises(DatasetError, match=r"test_images\.npy: SHA-256 is"):
            cached(manifest, cache, first)
        assert cache.entries() == []

    def test_a_description_of_something_else_is_refused(self, first, tmp_path):
        manifest, _ = fetch_version("tiny", settings=first)
        cache = open_cache(tmp_path / "cache", "1 GB")
        cached(manifest, cache, first).release()
        store = ObjectStore(first)
        key = next(key for key in store.keys("prepared/") if key.endswith(".json"))
        store.put_json(key, store.get_json(key) | {"digest": "f" * 64})
        with pytest.raises(DatasetError, match="not the four arrays of tiny"):
            cached(manifest, cache, first)

    def test_no_room(self, first, tmp_path):
        manifest, _ = fetch_version("tiny", settings=first)
        with pytest.raises(UnavailableError, match="raise cache_limit"):
            cached(manifest, open_cache(tmp_path / "cache", "1 KB"), first)

    def test_no_limit(self, tmp_path):
        with pytest.raises(ConfigurationError, match="cache limit 'much'"):
            open_cache(tmp_path / "cache", "much")


class TestCommands:
    @pytest.fixture
    def run(self, first, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))

        def run(*words, code=0):
            assert main(list(words)) == code
            said = capsys.readouterr()
            return said.err if code else said.out

        return run

    def test_versions(self, site, first, tmp_path, run):
        assert "no version yet" in run("versions", "list", "tiny")
        fetch_version("tiny", settings=first)
        fetch_version("tiny", settings=second(site, tmp_path))
        lines = run("versions", "list", "tiny").splitlines()
        assert lines[0].startswith(f"tiny@v1  {MADE.sha256}")
        assert lines[1].endswith("135 train + 20 test, 5 classes")
        assert "train images: 120 -> 135" in run("versions", "diff", "tiny@v1", "tiny@latest")
        assert run("versions", "diff", "tiny@v1", "tiny@v1") == "no difference\n"
        assert "deleted tiny@v1" in run("versions", "delete", "tiny@v1")
        assert run("versions", "list", "tiny").splitlines()[0].endswith("deleted")
        assert "not staged" in run("versions", "diff", "tiny@v1", "tiny@v2", code=1)

    def test_cache(self, first, tmp_path, run):
        fetch_version("tiny", settings=first)
        here = ("cache", "--dir", str(tmp_path / "cache"), "--limit", "1 GB")
        assert run(*here, "fill", "tiny@v1").startswith("filled: ")
        assert run(*here, "fill", "tiny").startswith("there already: ")
        key, size = run(*here, "list").split()[:2]
        assert key.startswith(MADE.sha256)
        assert int(size.replace(",", "")) > 400_000
        assert run(*here, "pin", key) == f"pinned {key}\n"
        assert "pinned; wait" not in run(*here, "list")
        assert "unpin it" in run(*here, "evict", key, code=1)
        run(*here, "unpin", key)
        assert run(*here, "verify") == f"{key}  sound\n"
        (tmp_path / "cache" / "entries" / key / "dataset.json").unlink()
        assert "1 entries were damaged" in run(*here, "verify", key, code=1)
        assert "0 of 1,000,000,000 bytes; 1 set aside" in run(*here, "list")
        assert "no such entry" in run(*here, "evict", key, code=1)
        run(*here, "fill", "tiny")
        assert run(*here, "evict", key) == f"evicted {key}\n"
        assert "which cache" in run("cache", "list", code=1)

    def test_a_site_names_the_cache(self, first, tmp_path, run):
        text = "".join(
            f"{name} = {json.dumps(value)}\n"
            for name, value in {
                "python": "/usr/bin/python3", "runs_dir": "/r", "data_dir": "/d", "cores": 1,
            }.items()
        )  # fmt: skip
        more = f"cache_dir = {json.dumps(str(tmp_path / 'c'))}\ncache_limit = '2 MB'\n"
        Path(first.sites_file).write_text(f"[plain]\n{text}[cached]\n{text}{more}")
        assert "of 2,000,000 bytes" in run("cache", "--site", "cached", "list")
        assert "set cache_dir" in run("cache", "--site", "plain", "list", code=1)
