"""Environment checks: each says what was found, what is needed and what to do; none raises."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from tests.fakes import trainers
from tests.fakes.runs import site
from tests.fixtures.settings import make_settings
from trainyard import environment, environment_storage
from trainyard.environment import CHECKS, verify
from trainyard.environment_table import table
from trainyard.store import Verdict, migrate, open_store

GOOD_TRAINER = (
    'echo \'{"python": "3.11.7", "torch": "2.15.0", "torchvision": "0.30.0", "gloo": true, '
    '"gpus": 0}\''
)


@pytest.fixture
def settings(tmp_path):
    made = make_settings(tmp_path)
    with open_store(made.results_url) as store:
        migrate(store)
    return made


def found(name, settings, place):
    return environment._guarded(CHECKS[name], settings, place)


def test_nothing_listens_and_still_every_check_answers(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_PATIENCE_S", 1.0)
    place = site(tmp_path, trainers.trainer(tmp_path, GOOD_TRAINER), cores=1)
    checks = {check.name: check for check in verify(settings, place, dag_run_id="r")}
    assert list(checks) == ["idle", *CHECKS]
    assert {check.dag_run_id for check in checks.values()} == {"r"}
    assert len({check.checked_at for check in checks.values()}) == 1
    for name in ("object store", "tracking", "clock"):
        assert checks[name].verdict == Verdict.FAILED, name
        assert checks[name].detail, name
    for name in ("airflow", "trainer", "cores", "results database"):
        assert checks[name].verdict == Verdict.PASSED, name
    with open_store(settings.results_url) as store:
        store.save_environment_checks(list(checks.values()))
        stored = store.query("environment_latest", site=place.name)
    assert [row["name"] for row in stored] == list(checks)


def test_the_table_shows_every_check_and_every_fix(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_PATIENCE_S", 1.0)
    place = site(tmp_path, "/nowhere/python", cores=1)
    checks = verify(settings, place)
    text = table(checks)
    for check in checks:
        assert check.name in text
        assert check.measured in text
        assert check.detail in text


class TestTrainer:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (
                "echo 'ModuleNotFoundError: No module named torch' >&2; exit 1",
                "No module named torch",
            ),
            (GOOD_TRAINER.replace("2.15.0", "2.4.1"), "torch 2.4.1"),
            (GOOD_TRAINER.replace("true", "false"), "gloo no"),
        ],
    )
    def test_an_unfit_environment_fails_with_what_it_said(self, settings, tmp_path, body, words):
        answer = found("trainer", settings, site(tmp_path, trainers.trainer(tmp_path, body)))
        assert answer.verdict is Verdict.FAILED
        assert words in answer.measured
        assert "make setup" in answer.fix

    def test_no_such_python(self, settings, tmp_path):
        answer = found("trainer", settings, site(tmp_path, "/nowhere/python"))
        assert answer.verdict is Verdict.FAILED
        assert "/nowhere/python" in answer.fix

    def test_garbage_is_a_finding(self, settings, tmp_path):
        place = site(tmp_path, trainers.trainer(tmp_path, "echo what"))
        assert found("trainer", settings, place).verdict is Verdict.FAILED


class TestMachine:
    def test_more_cores_than_there_are(self, settings, tmp_path):
        answer = found("cores", settings, site(tmp_path, cores=4096))
        assert answer.verdict is Verdict.FAILED
        assert answer.fix == f"set cores = {len(os.sched_getaffinity(0))} for site here"

    def test_gpus_that_are_not_there(self, settings, tmp_path):
        answer = found("gpus", settings, site(tmp_path, gpus_per_node=512))
        assert answer.verdict is Verdict.FAILED

    def test_gpus_nobody_asked_for(self, settings, tmp_path):
        assert found("gpus", settings, site(tmp_path)).verdict is Verdict.SKIPPED

    def test_a_runs_folder_that_cannot_be_written(self, settings, tmp_path):
        (tmp_path / "runs").write_text("a file")
        answer = found("disk", settings, site(tmp_path))
        assert answer.verdict is Verdict.FAILED
        assert "runs" in answer.fix

    def test_a_full_disk(self, settings, tmp_path, monkeypatch):
        real = shutil.disk_usage(tmp_path)
        for free, verdict in ((0.5, Verdict.FAILED), (3, Verdict.WARNING), (9, Verdict.PASSED)):
            usage = real._replace(free=int(free * environment.GIB))
            monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            assert found("disk", settings, site(tmp_path)).verdict is verdict

    def test_a_busy_machine_warns(self, settings, tmp_path, monkeypatch):
        ticks = iter([0.0, 1e6])
        monkeypatch.setattr(environment, "_busy_seconds", lambda: next(ticks))
        answer = environment._guarded(environment._idle, settings, site(tmp_path))
        assert answer.verdict is Verdict.WARNING


class TestServices:
    def test_a_results_database_without_a_schema(self, settings, tmp_path):
        fresh = replace(settings, results_url=f"sqlite:///{tmp_path}/fresh.db")
        answer = found("results database", fresh, site(tmp_path))
        assert answer.verdict is Verdict.FAILED
        assert answer.fix

    def test_a_real_object_store(self, settings, tmp_path, s3_server):
        there = replace(settings, **s3_server.settings())
        assert found("object store", there, site(tmp_path)).verdict is Verdict.PASSED
        assert found("clock", there, site(tmp_path)).verdict is Verdict.PASSED

    def test_a_new_installation_has_no_bucket_yet(self, settings, tmp_path, s3_server):
        fresh = replace(settings, **s3_server.settings("made-by-the-first-check"))
        assert found("lifecycle", fresh, site(tmp_path)).verdict is not Verdict.FAILED

    def test_lifecycle_rules(self, settings, tmp_path, s3_server, lifecycle_server):
        from trainyard.lifecycle import ensure_lifecycle
        from trainyard.objectstore import ObjectStore

        without = replace(settings, **s3_server.settings())
        ObjectStore(without).ensure_bucket()
        answer = found("lifecycle", without, site(tmp_path))
        assert answer.verdict is Verdict.SKIPPED
        assert "nothing expires by itself" in answer.measured
        with_rules = replace(settings, **lifecycle_server.settings())
        ObjectStore(with_rules).ensure_bucket()
        answer = found("lifecycle", with_rules, site(tmp_path))
        assert answer.verdict is Verdict.WARNING
        assert "trainyard.lifecycle apply" in answer.fix
        ensure_lifecycle(with_rules)
        assert found("lifecycle", with_rules, site(tmp_path)).verdict is Verdict.PASSED

    def test_wrong_credentials(self, settings, tmp_path, s3_server):
        there = replace(settings, **(s3_server.settings() | {"s3_secret_key": "wrong"}))
        answer = found("object store", there, site(tmp_path))
        assert answer.verdict is Verdict.FAILED
        assert answer.fix

    def test_a_clock_that_is_off(self, settings, tmp_path, s3_server, monkeypatch):
        there = replace(settings, **s3_server.settings())
        from datetime import UTC, datetime

        monkeypatch.setattr(
            environment_storage,
            "parsedate_to_datetime",
            lambda text: datetime(2020, 1, 1, tzinfo=UTC),
        )
        answer = found("clock", there, site(tmp_path))
        assert answer.verdict is Verdict.FAILED
        assert "set the clock" in answer.fix
