"""What goes wrong outside: a clear error, and nothing half stored. The faults are real ones."""

from __future__ import annotations

import contextlib
import signal
import socket
import sqlite3
import stat
import subprocess
import sys

import pytest

from tests.fixtures.postgres import running_postgres
from tests.fixtures.samples import make_result, make_run
from trainer.contract import Window, WindowKind
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.store import migrate, open_store
from trainyard.store.engine import make_engine, redact

LARGE = tuple(
    Window(kind=WindowKind.TRAIN, index=i, steps=1, images=1, seconds_by_rank=(0.1,) * 64)
    for i in range(2000)
)


def large_run():
    return make_run(study_id="", result=make_result(windows=LARGE), log_tail="new")


def small_run(**changes):
    return make_run(study_id="", result=make_result(), log_tail="old", **changes)


@pytest.fixture
def sqlite_store(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'r.db'}", timeout_s=0.2) as opened:
        migrate(opened)
        yield opened


@pytest.fixture
def postgres_store(postgres_url):
    with open_store(postgres_url, timeout_s=0.5) as opened:
        migrate(opened)
        yield opened


def assert_still_old(store):
    assert store.run("run-1").log_tail == "old"
    assert len(store.query("run_windows", run_id="run-1")) == 4


# full disk


def test_sqlite_full_disk_stores_nothing_of_the_run(sqlite_store):
    sqlite_store.save_run(small_run())
    pages = sqlite_store.engine.fetch("PRAGMA page_count", {})[1][0][0]
    sqlite_store.engine.fetch(f"PRAGMA max_page_count = {pages + 2}", {})
    with pytest.raises(UnavailableError, match=r"no space left .* nothing of this transaction"):
        sqlite_store.save_run(large_run())
    assert_still_old(sqlite_store)
    sqlite_store.engine.fetch("PRAGMA max_page_count = 1000000", {})
    assert sqlite_store.save_run(large_run()), "space again: the same connection goes on"
    assert len(sqlite_store.query("run_windows", run_id="run-1")) == 2000


def test_postgresql_full_disk_stores_nothing_of_the_run(postgres_store):
    """The server's own error class, raised where it would come: amid the children."""
    postgres_store.save_run(small_run())
    postgres_store.engine.fetch(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        {},
    )
    postgres_store.engine.fetch(
        "CREATE TRIGGER full_disk BEFORE INSERT ON run_windows FOR EACH ROW "
        "WHEN (NEW.idx > 1000) EXECUTE FUNCTION full_disk()",
        {},
    )
    with pytest.raises(UnavailableError, match=r"no space left \(could not extend file"):
        postgres_store.save_run(large_run())
    assert_still_old(postgres_store)
    assert postgres_store.save_run(small_run(reason="the same connection goes on"))


# read-only


def test_sqlite_read_only_is_told(sqlite_store):
    sqlite_store.save_run(small_run())
    sqlite_store.engine.fetch("PRAGMA query_only = ON", {})
    with pytest.raises(ConfigurationError, match=r"is read-only .*write permission"):
        sqlite_store.save_run(large_run())
    assert_still_old(sqlite_store)


def test_postgresql_read_only_is_told(postgres_store):
    postgres_store.save_run(small_run())
    postgres_store.engine.fetch("SET default_transaction_read_only = on", {})
    with pytest.raises(ConfigurationError, match="is read-only"):
        postgres_store.save_run(large_run())
    assert_still_old(postgres_store)


# locks


def test_a_locked_sqlite_file_is_given_up_in_time_and_works_again(sqlite_store, tmp_path):
    sqlite_store.save_run(small_run())
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match=r"is locked by another process \(waited 0.2 s"):
            sqlite_store.save_run(large_run())
        assert_still_old(sqlite_store)  # readers never wait for a writer
        other.execute("ROLLBACK")
    assert sqlite_store.save_run(large_run())


def test_a_locked_postgresql_row_is_given_up_in_time(postgres_store, postgres_url):
    postgres_store.save_run(small_run())
    with open_store(postgres_url) as other, other.engine.transaction():
        other.engine.fetch("UPDATE runs SET reason = 'held'", {})
        with pytest.raises(UnavailableError, match=r"is locked by another process \(waited up to"):
            postgres_store.save_run(large_run())
    assert postgres_store.save_run(large_run())


# absent, unreachable, refused


def test_a_missing_sqlite_file_is_not_made_by_asking(tmp_path):
    path = tmp_path / "none.db"
    with (
        open_store(f"sqlite:///{path}") as store,
        pytest.raises(ConfigurationError, match=r"does not exist: `make demo` makes one"),
    ):
        store.query("study", study_id="a")
    assert not path.exists()


def test_a_missing_folder_is_told(tmp_path):
    with (
        open_store(f"sqlite:///{tmp_path / 'no' / 'r.db'}") as store,
        pytest.raises(UnavailableError, match="its folder must exist"),
    ):
        migrate(store)


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "r.db"
    path.write_bytes(b"this is no database at all" * 100)
    with (
        open_store(f"sqlite:///{path}") as store,
        pytest.raises(ConfigurationError, match="damaged or no SQLite file"),
    ):
        migrate(store)


def test_a_strange_path_is_opened_as_it_is_written(tmp_path):
    folder = tmp_path / "a b?c%d#e"
    folder.mkdir()
    quoted = str(folder / "r.db").replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    with open_store(f"sqlite:///{quoted}") as store:
        migrate(store)
    assert (folder / "r.db").stat().st_size > 0
    assert stat.S_ISREG((folder / "r.db").stat().st_mode)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        pytest.param({"password": "wrong%20one"}, "refuses the login", id="password"),
        pytest.param({"database": "nowhere"}, "refuses the login", id="database"),
    ],
)
def test_wrong_credentials_are_told_without_the_password(postgres_server, changed, complaint):
    with (
        open_store(postgres_server.url(**changed)) as store,
        pytest.raises(ConfigurationError, match=complaint) as caught,
    ):
        store.query("study", study_id="a")
    assert "wrong" not in str(caught.value)
    assert "correct" not in str(caught.value)


def test_a_server_that_is_not_there_is_told_quickly():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        url = f"postgresql://me:hush@127.0.0.1:{port}/results"
        with (
            open_store(url) as store,
            pytest.raises(UnavailableError, match="does not answer") as e,
        ):
            store.query("study", study_id="a")
    assert "hush" not in str(e.value)


@pytest.mark.slow
def test_a_server_that_dies_under_the_connection_is_told_and_found_again():
    with running_postgres() as server, open_store(server.url()) as store:
        migrate(store)
        store.save_run(small_run())
        with open_store(server.url()) as admin:
            admin.engine.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND application_name = 'trainyard'",
                {},
            )
        with pytest.raises(UnavailableError, match="does not answer"):
            store.save_run(large_run())
        assert_still_old(store)  # connects again by itself
        server.process.send_signal(signal.SIGQUIT)  # as by a crash
        server.process.wait(20)
        with pytest.raises(UnavailableError, match="does not answer"):
            store.save_run(large_run())


def test_a_writer_killed_amid_a_transaction_leaves_nothing(results_url):
    """SIGKILL between the row and its children: the next writer finds the state from before."""
    with open_store(results_url) as store:
        migrate(store)
        store.save_run(small_run())
        code = (
            "import os, sys; sys.path.insert(0, os.getcwd())\n"
            "from tests.trainyard.test_store_faults import large_run\n"
            "from trainyard.store import open_store\n"
            "from trainyard.store.engine import Engine\n"
            "store = open_store(sys.argv[1])\n"
            "many = type(store.engine).fetch_many\n"
            "def dying(self, sql, rows):\n"
            "    many(self, sql, rows)\n"
            "    if 'run_windows' in sql: os.kill(os.getpid(), 9)\n"
            "type(store.engine).fetch_many = dying\n"
            "store.save_run(large_run())\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, results_url], timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert_still_old(store)
        assert store.save_run(large_run())


# addresses


@pytest.mark.parametrize(
    "url",
    ["results.db", "sqlite://", "sqlite:///", "mysql://me:hush@host/db", "sqlite://host/path", ""],
)
def test_other_addresses_are_refused_with_the_forms_that_work(url):
    with pytest.raises(ConfigurationError, match="choose from sqlite:////absolute") as caught:
        make_engine(url, 1)
    assert "hush" not in str(caught.value)


def test_a_malformed_postgresql_address_is_told():
    with (
        open_store("postgresql://me:hush@host:notaport/db?nonsense=1") as store,
        pytest.raises((ConfigurationError, UnavailableError)) as caught,
    ):
        store.query("study", study_id="a")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush word@127.0.0.1:1/d",
        "postgresql://me:a@hush@127.0.0.1:1/d",
        "postgresql://me:a/hush@127.0.0.1:1/d",
        "postgresql://me:a#hush@127.0.0.1:1/d",
        "postgresql://me:hush%zz@127.0.0.1:1/d",
        "postgresql://me:hush@127.0.0.1:1/d?password=hush@2",
        "postgresql://me:hush@[127.0.0.1:1/d",
        "postgres//me:hush@127.0.0.1/d",
        "postgresql://me:hush@127.0.0.1:1/d",
    ],
)
def test_no_piece_of_a_password_stands_in_any_error_of_the_chain(url):
    import traceback

    with pytest.raises((ConfigurationError, UnavailableError)) as caught, open_store(url) as store:
        store.query("study", study_id="a")
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:a:b@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:p@ss@h/d", "postgresql://me:***@h/d"),
        (
            "postgresql://h/d?user=me&password=x%20y&a=b",
            "postgresql://h/d?user=me&password=***&a=b",
        ),
        ("postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_passwords_are_never_shown(url, shown):
    assert redact(url) == shown
