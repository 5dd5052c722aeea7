"""Migrations: once, whole, in order, by one process at a time, and never onto a newer database."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from trainyard.errors import ConfigurationError
from trainyard.store import migrate, open_store
from trainyard.store.files import Migration, column_types, read_migrations
from trainyard.store.migrations import apply_migrations, check_schema

TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'",
}
FILES = [migration.name for migration in read_migrations()]


def tables(store):
    return {row[0] for row in store.engine.fetch(TABLES[store.engine.kind], {})[1]}


def test_every_file_is_applied_once_and_recorded_with_its_checksum(results_url):
    with open_store(results_url) as store:
        assert migrate(store) == FILES
        assert migrate(store) == []
        _, rows = store.engine.fetch(
            "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version", {}
        )
        assert [row[:3] for row in rows] == [
            (m.version, m.name, m.checksum) for m in read_migrations()
        ]
        assert all(row[3].endswith("+00:00") for row in rows)
        assert tables(store) == {
            "schema_migrations", "studies", "runs", "run_metrics", "run_windows", "run_epochs",
            "run_flags", "run_checks", "datasets", "environment_checks", "run_jobs",
            "dag_run_audit", "dataset_versions", "run_artifacts", "profiles", "profile_shares",
            "profile_recoverable", "profile_files", "probe_reports",
        }  # fmt: skip


def test_an_edited_applied_migration_is_named(store):
    first, *rest = read_migrations()
    edited = [dataclasses.replace(first, sql=first.sql + "\n-- edited"), *rest]
    with pytest.raises(ConfigurationError, match=rf"{first.name} was edited .* new migration"):
        apply_migrations(store.engine, edited)


def test_a_database_of_a_newer_trainyard_is_refused_by_every_use(store):
    next_version = len(FILES) + 1
    store.engine.fetch(
        "INSERT INTO schema_migrations VALUES (:version, :name, 'abc', 'now')",
        {"version": next_version, "name": f"{next_version:04}_from_tomorrow.sql"},
    )
    with pytest.raises(ConfigurationError, match=r"newer Trainyard: it has .*from_tomorrow"):
        migrate(store)
    with pytest.raises(ConfigurationError, match="newer Trainyard"):
        store.query("study", study_id="any")


def test_an_older_database_is_refused_until_migrated(results_url):
    with open_store(results_url) as store:
        apply_migrations(store.engine, read_migrations()[:1])
        with pytest.raises(ConfigurationError, match=rf"lacks {FILES[1]}.*store migrate"):
            store.query("study", study_id="any")
        assert migrate(store) == FILES[1:]
        assert store.query("study", study_id="any") == []


def test_a_database_without_a_schema_says_how_to_make_one(results_url):
    with open_store(results_url) as store:
        apply_migrations(store.engine, [])
        store.engine.fetch("DROP TABLE schema_migrations", {})
        with pytest.raises(ConfigurationError, match=r"lacks the tables.*trainyard.store migrate"):
            check_schema(store.engine)


def test_a_migration_that_fails_half_way_leaves_nothing(results_url):
    broken = Migration(
        version=1,
        name="0001_broken.sql",
        sql="CREATE TABLE half (a TEXT); CREATE TABLE half (a TEXT)",
    )
    with open_store(results_url) as store:
        with pytest.raises(Exception, match="already exists"):
            apply_migrations(store.engine, [broken])
        assert tables(store) == set()
        assert migrate(store) == FILES


def test_processes_that_migrate_at_once_apply_every_file_once(results_url):
    command = [sys.executable, "-m", "trainyard.store", "migrate", results_url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, answers
    said = sorted(line for out, _ in answers for line in out.splitlines())
    assert said == [f"applied {name}" for name in FILES] + ["nothing to do"] * 3


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        pytest.param(["0001_a.sql", "0003_c.sql"], "number the migrations", id="gap"),
        pytest.param(["0001_a.sql", "0001_b.sql"], "number the migrations", id="double"),
        pytest.param(["first.sql"], "NNNN_what_it_does", id="no-number"),
    ],
)
def test_badly_numbered_files_are_refused(tmp_path, names, complaint):
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ConfigurationError, match=complaint):
        read_migrations(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no such folder"):
        read_migrations(tmp_path / "nowhere")


def test_the_column_types_are_those_that_postgresql_sees(postgres_url):
    with open_store(postgres_url) as store:
        migrate(store)
        _, rows = store.engine.fetch(
            "SELECT column_name, UPPER(data_type) FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'schema_migrations'",
            {},
        )
    assert column_types() == dict(rows)
