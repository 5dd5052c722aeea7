"""The cache in one process: hits, limits, order of eviction, damage, full disks."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.cached import Filler, cache_of, content, keys
from trainer.cache import Cache, CacheError, CacheFullError, Health, Limit
from trainer.cache.locks import filesystem, held

KEEPS = settings(max_examples=40)


def entry_of(tmp_path: Path, key: str) -> Path:
    return tmp_path / "cache" / "entries" / key


class TestLimit:
    @pytest.mark.parametrize(
        ("text", "on_a_terabyte"),
        [
            ("50%", 500 * 10**9),
            ("0.5 %", 5 * 10**9),
            ("200 GB", 200 * 10**9),
            ("1.5GiB", 3 * 2**29),
            ("64000000000", 64 * 10**9),
            ("7b", 7),
        ],
    )
    def test_texts(self, text, on_a_terabyte):
        assert Limit.parse(text).in_bytes(10**12) == on_a_terabyte

    @pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-5 GB", "much", "5 GiBs", "nan"])
    def test_no_limit(self, text):
        with pytest.raises(ValueError, match="cache limit"):
            Limit.parse(text)


class TestFilling:
    def test_a_miss_fills_and_a_hit_does_not(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        assert [filler.use(cache, "a") for _ in range(3)] == [False, True, True]
        assert filler.filled == ["a"]
        assert cache.entries()[0].health is Health.SOUND

    def test_another_process_object_finds_it(self, tmp_path):
        filler = Filler()
        filler.use(cache_of(tmp_path), "a")
        assert filler.use(cache_of(tmp_path), "a")

    def test_a_fill_that_breaks_leaves_nothing(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        filler.fail = RuntimeError("the store went away")
        with pytest.raises(RuntimeError, match="went away"):
            filler.use(cache, "a")
        assert keys(cache) == []
        assert list((tmp_path / "cache" / "incoming").iterdir()) == []
        filler.fail = None
        assert not filler.use(cache, "a")

    def test_a_fill_must_announce_what_it_wrote(self, tmp_path):
        cache = cache_of(tmp_path)

        def sloppy(folder):
            (folder / "a.bin").write_bytes(b"x")
            (folder / "b.bin").write_bytes(b"x")
            return {"a.bin": "0" * 64}

        with pytest.raises(CacheError, match="announced were"):
            cache.acquire("a", sloppy, size_bytes=2)
        assert keys(cache) == []

    @pytest.mark.parametrize("key", ["", "..", "a/b", ".a", "a\n", "x" * 161])
    def test_a_key_names_one_folder(self, tmp_path, key):
        with pytest.raises(CacheError, match="cache key"):
            cache_of(tmp_path).acquire(key, Filler().of(key), size_bytes=1)

    def test_files_are_read_only(self, tmp_path):
        Filler().use(cache_of(tmp_path), "a")
        assert (entry_of(tmp_path, "a") / "a.bin").stat().st_mode & 0o222 == 0


class TestEviction:
    def test_the_least_recently_used_goes_first(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        for key in "abc":
            filler.use(cache, key)
        filler.use(cache, "a")
        filler.use(cache, "d")
        assert keys(cache) == ["c", "a", "d"]

    def test_what_is_in_use_stays(self, tmp_path):
        cache, filler = cache_of(tmp_path, entries=2), Filler()
        with cache.acquire("a", filler.of("a"), size_bytes=1000) as lease:
            filler.use(cache, "b")
            filler.use(cache, "c")
            assert keys(cache) == ["a", "c"]
            assert not cache.evict("a")
            assert (lease.folder / "a.bin").exists()
        assert cache.evict("a")

    def test_pinned_stays_until_unpinned(self, tmp_path):
        cache, filler = cache_of(tmp_path, entries=2), Filler()
        filler.use(cache, "a")
        cache.pin("a")
        for key in "bcd":
            filler.use(cache, key)
        assert keys(cache) == ["a", "d"]
        assert not cache.evict("a")
        cache.pin("a", pinned=False)
        filler.use(cache, "e")
        assert keys(cache) == ["d", "e"]

    def test_no_room_beside_readers_says_who_takes_it(self, tmp_path):
        cache, filler = cache_of(tmp_path, entries=2), Filler()
        with (
            cache.acquire("a", filler.of("a"), size_bytes=1000),
            cache.acquire("b", filler.of("b"), size_bytes=1000),
            pytest.raises(CacheFullError, match="2,000 are being read"),
        ):
            filler.use(cache, "c")
        assert not filler.use(cache, "c")

    def test_a_fill_that_ends_while_others_are_evicted_counts_once(self, tmp_path, monkeypatch):
        """What it had announced is what it holds: nothing more has to go for it."""
        cache, filler = cache_of(tmp_path, entries=3), Filler()
        filler.use(cache, "old")
        room, home = cache._room, tmp_path / "cache"
        (home / "incoming" / "other").mkdir()
        (home / "incoming" / "other" / "a.bin").write_bytes(content("other", 1000))
        (home / "announced" / "other").write_text("1000")
        evict = room.evict

        def while_the_other_ends(key):
            if (home / "incoming" / "other").exists():
                (home / "incoming" / "other").rename(home / "entries" / "other")
                (home / "announced" / "other").unlink()
            return evict(key)

        monkeypatch.setattr(room, "evict", while_the_other_ends)
        with held(home / "locks" / "other.fill", wait_s=1):
            cache.acquire("new", Filler(2000).of("new"), size_bytes=2000).release()
        assert sorted(keys(cache)) == ["new", "other"]

    def test_more_than_the_whole_cache_is_refused_at_once(self, tmp_path):
        cache = cache_of(tmp_path, entries=2)
        with pytest.raises(CacheFullError, match="raise cache_limit"):
            cache.acquire("a", Filler().of("a"), size_bytes=2001)

    def test_an_open_map_outlives_its_entry(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        filler.use(cache, "a")
        with (entry_of(tmp_path, "a") / "a.bin").open("rb") as stream:
            view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        assert cache.evict("a")
        assert view[:] == content("a", 1000)
        view.close()

    @KEEPS
    @given(
        uses=st.lists(st.sampled_from("abcdef"), max_size=25),
        room=st.integers(1, 4),
        pinned=st.sets(st.sampled_from("abcdef"), max_size=1),
    )
    def test_it_holds_what_a_model_of_lru_holds(self, uses, room, pinned):
        with tempfile.TemporaryDirectory() as name:
            cache, filler = cache_of(Path(name), entries=room), Filler()
            for key in pinned:
                cache.pin(key)
            model: list[str] = []
            for key in uses:
                free = [other for other in model if other not in pinned]
                fits = key in model or len(model) < room or free
                if not fits:
                    with pytest.raises(CacheFullError):
                        filler.use(cache, key)
                    continue
                assert filler.use(cache, key) == (key in model)
                if key not in model and len(model) == room:
                    model.remove(free[0])
                model = [other for other in model if other != key] + [key]
                assert keys(cache) == model


class TestDamage:
    def damaged(self, tmp_path, how):
        cache, filler = cache_of(tmp_path), Filler()
        filler.use(cache, "a")
        path = entry_of(tmp_path, "a") / "a.bin"
        path.chmod(0o644)
        how(path)
        return cache, filler

    @pytest.mark.parametrize(
        "how",
        [
            lambda path: path.write_bytes(content("b", 1000)),
            lambda path: path.write_bytes(b"short"),
            lambda path: path.unlink(),
            lambda path: path.with_name("extra.bin").write_bytes(b"x"),
            lambda path: path.with_name("sub").mkdir(),
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
            lambda path: (path.unlink(), os.mkfifo(path)),
            lambda path: path.with_name(".entry.json").write_text("{}"),
            lambda path: path.with_name(".entry.json").unlink(),
        ],
        ids=["bytes", "size", "gone", "extra", "folder", "link", "fifo", "record", "no record"],
    )
    def test_is_set_aside_and_filled_again(self, tmp_path, how):
        cache, filler = self.damaged(tmp_path, how)
        assert not filler.use(cache, "a")
        assert filler.filled == ["a", "a"]
        assert len(cache.quarantined()) == 1
        assert filler.use(cache, "a")

    def test_an_entry_that_is_a_link_is_unlinked_and_its_target_stays(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        filler.use(cache, "a")
        other = tmp_path / "mine"
        shutil.copytree(entry_of(tmp_path, "a"), other)
        shutil.rmtree(entry_of(tmp_path, "a"))
        entry_of(tmp_path, "a").symlink_to(other)
        assert not filler.use(cache, "a")
        assert (other / "a.bin").exists()

    def test_a_touched_file_with_the_right_bytes_is_read_and_kept(self, tmp_path):
        cache, filler = self.damaged(tmp_path, os.utime)
        assert cache.entries()[0].health is Health.SUSPECT
        assert filler.use(cache, "a")
        assert cache.entries()[0].health is Health.SOUND

    def test_after_a_restart_of_the_machine_all_bytes_are_read_once(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        filler.use(cache, "a")
        record = entry_of(tmp_path, "a") / ".entry.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "before"}))
        path = entry_of(tmp_path, "a") / "a.bin"
        before = path.stat()
        path.chmod(0o644)
        path.write_bytes(bytes(1000))  # what a power cut leaves of data that never left the cache
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.entries()[0].health is Health.SUSPECT
        assert not filler.use(cache, "a")

    def test_verify_reads_what_a_cheap_look_cannot_see(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        filler.use(cache, "a")
        path = entry_of(tmp_path, "a") / "a.bin"
        before = path.stat()
        path.chmod(0o644)
        path.write_bytes(content("b", 1000))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.entries()[0].health is Health.SOUND
        assert cache.verify("a") is Health.DAMAGED
        assert keys(cache) == []
        assert cache.verify("a") is Health.ABSENT

    def test_quarantine_keeps_two_and_gives_way(self, tmp_path):
        cache, filler = cache_of(tmp_path), Filler()
        for _ in range(4):
            filler.use(cache, "a")
            (entry_of(tmp_path, "a") / ".entry.json").unlink()
        filler.use(cache, "a")
        assert len(cache.quarantined()) == 2
        filler.use(cache, "b")
        filler.use(cache, "c")
        assert cache.quarantined() == []
        assert keys(cache) == ["a", "b", "c"]


class TestPlaces:
    def test_somebody_elses_folder_is_refused(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("giving a folder to another user needs root")
        root = tmp_path / "cache"
        root.mkdir()
        os.chown(root, 12345, -1)
        with pytest.raises(CacheError, match="belongs to user id 12345"):
            cache_of(tmp_path)

    def test_a_folder_of_everybody_is_refused(self, tmp_path):
        root = tmp_path / "cache"
        root.mkdir()
        root.chmod(0o777)
        with pytest.raises(CacheError, match="everybody may write"):
            cache_of(tmp_path)

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "cache").write_text("")
        with pytest.raises(CacheError, match="name a folder"):
            cache_of(tmp_path)

    MOUNTS = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:2 / /home rw - nfs4 server:/home rw\n"
        "3 2 0:3 / /home/me/scr\\040atch rw - tmpfs tmpfs rw\n"
        "4 1 0:4 / /over rw - xfs /dev/b rw\n"
        "5 1 0:5 / /over rw - lustre l rw\n"
        "6 1 0:6 / /données\\011\\134 rw - nfs server:/d rw\n"
        "not a mount\n"
    )

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/var/cache", "ext4"),
            ("/home", "nfs4"),
            ("/home/you", "nfs4"),
            ("/homes", "ext4"),
            ("/home/me/scr atch/x", "tmpfs"),
            ("/over/x", "lustre"),
            ("/données\t\\/x", "nfs"),
        ],
    )
    def test_the_kind_of_file_system(self, path, kind):
        assert filesystem(Path(path), self.MOUNTS) == kind

    def test_a_network_file_system_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trainer.cache.locks.filesystem", lambda *_: "nfs4")
        with pytest.raises(CacheError, match=r"lies on nfs4.*leave cache_dir empty"):
            cache_of(tmp_path)

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
    def test_no_flock(self, tmp_path, monkeypatch, code):
        def refuse(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.raises(CacheError, match="has no flock"):
            cache_of(tmp_path)

    def test_flock_that_excludes_nobody(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        with pytest.raises(CacheError, match="flock excludes nobody"):
            cache_of(tmp_path)


class TestFullDisk:
    SIZE = 300_000

    def cache(self, small_disk):
        return Cache(small_disk / "cache", Limit(size_bytes=10**9), wait_s=5)

    def test_entries_give_way_before_the_disk_is_full(self, small_disk):
        cache, filler = self.cache(small_disk), Filler(self.SIZE)
        for key in "abcde":
            filler.use(cache, key)
        assert keys(cache)[-1] == "e"
        assert 2 <= len(keys(cache)) <= 3

    def test_somebody_else_fills_the_disk_while_an_entry_is_written(self, small_disk):
        cache, filler = self.cache(small_disk), Filler(self.SIZE)
        filler.use(cache, "a")
        filler.use(cache, "b")
        other = small_disk / "other"

        def fill(folder):
            if not other.exists():
                other.write_bytes(bytes(300_000))
            return filler.of("c")(folder)

        with cache.acquire("c", fill, size_bytes=self.SIZE) as lease:
            assert not lease.hit
        assert keys(cache) == ["b", "c"]

    def test_a_disk_full_of_others_is_said(self, small_disk):
        cache, filler = self.cache(small_disk), Filler(self.SIZE)
        other = small_disk / "other"

        def fill(folder):
            free = shutil.disk_usage(small_disk).free
            with other.open("ab") as stream:
                stream.write(bytes(max(free - 4096, 0)))
            return filler.of("a")(folder)

        with pytest.raises(CacheFullError, match=r"the disk filled up|free on the disk"):
            cache.acquire("a", fill, size_bytes=self.SIZE)
        other.unlink()
        assert keys(cache) == []
        assert not filler.use(cache, "a")
