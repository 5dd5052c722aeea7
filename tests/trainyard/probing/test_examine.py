"""Probing a site through its launcher: started like a run, judged, stored, published."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.fakes import trainers
from tests.fakes.airflow_context import context
from tests.fakes.runs import site
from tests.fixtures.airflow import TRAINER
from tests.fixtures.settings import make_settings
from tests.requirements import need
from tests.trainyard.probing.reports import FACTS, measurement, report
from trainer.contract import Problem, dumps, loads
from trainyard.backends import open_backend
from trainyard.docker.site import DockerSite
from trainyard.errors import EnvironmentFailedError
from trainyard.launch import launch
from trainyard.operators import verified
from trainyard.operators.tasks import VerifyEnvironmentOperator
from trainyard.paths import RunPaths
from trainyard.probing import cli
from trainyard.probing.examine import examine
from trainyard.probing.running import probe_site, probe_spec, program
from trainyard.sites import Launcher
from trainyard.slurm.site import SlurmSite
from trainyard.store import EnvironmentCheck, Verdict, migrate, open_store
from trainyard.store.probes import find_probe, recent_probes

EXAMINE = "trainyard.probing.examine"
WRITES = """
while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done
mkdir -p "$out"
cp {report} "$out/n1.json"
"""


@pytest.fixture
def settings(tmp_path):
    made = replace(make_settings(tmp_path), references_dir=str(tmp_path / "references"))
    with open_store(made.results_url) as store:
        migrate(store)
    return made


@pytest.fixture(autouse=True)
def no_services(monkeypatch):
    """None behind the site: the settings' addresses answer nobody, and tests need not wait."""
    monkeypatch.setattr(f"{EXAMINE}.measure_services", lambda settings: ([], []))


def place(tmp_path, body):
    return site(tmp_path, trainers.trainer(tmp_path, body), cores=1)


def answering(tmp_path, made):
    path = tmp_path / "report.json"
    path.write_text(dumps(made))
    return place(tmp_path, WRITES.format(report=path))


def examined(settings, where, **options):
    found = examine(settings, where, open_backend(where), **options)
    return {check.name: check for check in found.checks}, found


def test_what_the_probes_found_is_judged_and_stored(settings, tmp_path):
    where = answering(tmp_path, report())
    checks, found = examined(settings, where, dag_run_id="night", checked_at="2026-11-22T03:00:00")
    assert {name: check.verdict for name, check in checks.items()} == {
        "probes": Verdict.WARNING,  # its clock
        "micro-benchmarks": Verdict.WARNING,  # a GPU was busy
        "nodes agree": Verdict.SKIPPED,
        "same as before": Verdict.PASSED,
    }
    assert "the clock is not synchronised; chrony" in checks["probes"].detail
    assert "used by pid 4711" in checks["micro-benchmarks"].detail
    with open_store(settings.results_url) as store:
        (row,) = recent_probes(store, where.name)
        assert find_probe(store, where.name, row.fingerprint[:6]) == row
        assert find_probe(store, where.name, "zz") is None
    assert row == found.rows[0]
    assert row.dag_run_id == "night"
    names = [one.name for one in row.report.measurements]
    assert "launch.start_to_end" in names, "timed on this side"
    assert not list((tmp_path / "runs").glob("probes*")), "its folder is gone"


def test_what_services_reach_and_why_not_stands_in_the_first_report(
    settings, tmp_path, monkeypatch
):
    made = measurement("tracking.log_batch", 2e4, "1/s")
    silent = Problem(probe="services", what="object store not measured: no answer", fix="its check")
    monkeypatch.setattr(f"{EXAMINE}.measure_services", lambda settings: ([made], [silent]))
    checks, found = examined(settings, answering(tmp_path, report()))
    first = found.rows[0].report
    assert made in first.measurements
    assert first.problems[-1] == silent
    assert "services: object store not measured: no answer; its check" in checks["probes"].detail


def test_a_defect_fails_the_check_and_names_node_and_fix(settings, tmp_path):
    where = answering(tmp_path, report(measurements=(measurement(value=1e9),)))
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / f"{where.name}.toml").write_text(
        f'site = "{where.name}"\n[[reference]]\ndevice = ""\nname = "memory.triad"\nunit = "B/s"\n'
        'value = 4e10\nlower = 3.8e10\nupper = 4.2e10\ndirection = "higher"\n'
    )
    checks, found = examined(settings, where)
    assert checks["micro-benchmarks"].verdict == Verdict.FAILED
    assert "n1: memory.triad -98%" in checks["micro-benchmarks"].detail
    assert found.bad_nodes == ("n1",)


def test_an_operator_that_computes_wrong_numbers_fails(settings, tmp_path):
    checks, found = examined(settings, answering(tmp_path, report(facts={"operator.x": "wrong"})))
    assert checks["probes"].verdict == Verdict.FAILED
    assert found.bad_nodes == ("n1",)


def test_a_changed_driver_is_told_the_next_time(settings, tmp_path):
    examined(settings, answering(tmp_path, report()))
    later = report(facts={"gpu.driver": "999"}, started_at="2026-11-23T02:00:00+00:00")
    checks, _ = examined(settings, answering(tmp_path, later))
    assert checks["same as before"].verdict == Verdict.WARNING
    assert f"gpu.driver: {FACTS['gpu.driver']} -> 999" in checks["same as before"].detail


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo 'No module named trainer.probes' >&2; exit 1", "No module named trainer.probes"),
        ("exit 0", "0 of 1 reports"),
        ('out=$4; mkdir -p "$out"; echo "{" > "$out/n1.json"', "truncated"),
    ],
)
def test_probes_that_leave_no_report_are_a_failed_check(settings, tmp_path, body, told):
    checks, found = examined(settings, place(tmp_path, body))
    assert list(checks) == ["probes"]
    assert checks["probes"].verdict == Verdict.FAILED
    assert told in checks["probes"].detail
    assert found.rows == ()


def test_a_wrong_reference_file_is_a_failed_check(settings, tmp_path):
    where = answering(tmp_path, report())
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / f"{where.name}.toml").write_text("sites = 1\n")
    checks, _ = examined(settings, where)
    assert "'sites' is unknown" in checks["probes"].detail


def test_the_probes_start_with_the_sites_python_and_its_size(tmp_path):
    where = replace(place(tmp_path, "true"), cores=6)
    paths = RunPaths(root=tmp_path / "runs", run_id="x")
    made = launch(probe_spec(where, 1), where, paths, program=program(where, paths, quick=True))
    words = list(made.argv)
    assert words[words.index(where.python) + 1 :][:2] == ["-m", "trainer.probes"]
    assert words[-1] == "--quick"
    assert dict(made.env)["OMP_NUM_THREADS"] == "6"
    gpus = replace(where, gpus_per_node=4, cores=8, largest_ranks=8)
    assert (probe_spec(gpus, 2).ranks, probe_spec(gpus, 2).threads_per_rank) == (8, 2)


class Events(dict):
    def __missing__(self, key):
        self[key] = value = Added()
        return value


class Added:
    def __init__(self):
        self.events = []

    def add(self, asset, extra):
        self.events.append((asset, extra))


class TestOperator:
    @pytest.fixture
    def told(self, settings, tmp_path, monkeypatch):
        where = answering(tmp_path, report())
        monkeypatch.setattr(VerifyEnvironmentOperator, "places", lambda self: (settings, where))

        def verify(_settings, _site, *, dag_run_id, place):
            now = datetime.now(UTC).isoformat()
            made = EnvironmentCheck(
                site=where.name,
                checked_at=now,
                name="trainer",
                measured="",
                requirement="",
                verdict=self.verdict,
                dag_run_id=dag_run_id,
            )
            return [made]

        monkeypatch.setattr("trainyard.environment.verify", verify)
        self.verdict = Verdict.PASSED
        return settings, where

    @staticmethod
    def run(**options):
        made = context(task_id="verify") | {"outlet_events": Events()}
        operator = VerifyEnvironmentOperator(
            task_id="verify", profiler="none", probes="quick", nodes="1", **options
        )
        return operator.execute(made), made["outlet_events"]

    def test_a_success_updates_the_asset_of_the_site(self, told):
        _, where = told
        text, events = self.run()
        assert text == "5 checks passed"
        ((asset, extra),) = events[verified.VERIFIED].events
        assert asset.uri == f"trainyard://environment/{where.name}"
        assert extra["warnings"] == 2
        assert extra["environment"].startswith("fingerprint ")

    def test_a_failure_updates_nothing_and_does_not_probe(self, told):
        settings, where = told
        self.verdict = Verdict.FAILED
        with pytest.raises(EnvironmentFailedError):
            self.run()
        with open_store(settings.results_url) as store:
            assert recent_probes(store, where.name) == []

    def test_a_recent_success_is_used_again_and_a_stale_or_failed_one_is_not(
        self, told, monkeypatch
    ):
        settings, where = told
        self.run()
        text, events = self.run(reuse=True)
        assert "counts for 24 hours" in text
        assert not events, "nothing new is known"
        assert verified.still_good(replace(settings, environment_hours=0), where) == ""
        self.verdict = Verdict.FAILED
        with pytest.raises(EnvironmentFailedError):
            self.run()
        assert verified.still_good(settings, where) == ""


def test_the_command_line(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_settings", lambda: settings)
    first = tmp_path / "first.json"
    first.write_text(dumps(report()))
    second = tmp_path / "second.json"
    second.write_text(dumps(report(facts={"os.kernel": "6.12"})))
    assert cli.main(["diff", str(first), str(second)]) == 0
    assert capsys.readouterr().out == "fact os.kernel: 6.1.0-28 -> 6.12\n"
    assert cli.main(["show", "--file", str(first)]) == 0
    assert "memory.triad" in capsys.readouterr().out
    assert cli.main(["show", "--site", "nowhere"]) == 1
    assert "run verify_environment" in capsys.readouterr().err
    out = tmp_path / "learned.toml"
    files = [str(first)] * 5
    assert cli.main(["learn", "--files", *files, "--out", str(out)]) == 0
    assert "memory.triad" in out.read_text()
    page = tmp_path / "docs" / "system.md"
    page.parent.mkdir()
    about = ["--about", "A test."]
    assert cli.main(["system", "--file", str(first), "--out", str(page), *about]) == 0
    assert (page.parent / "images" / "system.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_the_real_probes_through_the_process_launcher(settings, tmp_path):
    need(TRAINER.exists(), f"the trainer's environment is missing ({TRAINER}): make setup-test")
    where = replace(site(tmp_path, str(TRAINER)), cores=len(os.sched_getaffinity(0)))
    done = probe_site(where, open_backend(where), name="probes")
    (made,) = done.reports
    assert made.seconds < 60
    assert done.around_s > 0
    assert any(one.name == "memory.triad" for one in made.measurements)
    assert json.loads(dumps(made))["quick"] is True
    assert loads(type(made), dumps(made)) == made


@pytest.mark.parametrize("kind", ["slurm", "docker"])
def test_the_probes_start_through_every_launcher(kind, tmp_path):
    parts = {"slurm": SlurmSite(), "docker": DockerSite(image="trainyard/trainer:dev")}
    where = replace(
        site(tmp_path, "/opt/trainer/bin/python"),
        launcher=Launcher(kind),
        **{kind: parts[kind]},
    )
    paths = RunPaths(root=tmp_path / "runs", run_id="x")
    nodes = 2 if kind == "slurm" else 1
    words = program(where, paths, quick=True)
    made = launch(probe_spec(where, nodes), where, paths, program=words)
    told = f"-m trainer.probes --out {paths.probes} --run-dir {paths.run_dir}"
    assert told in made.script
    assert "-m trainer " not in made.script, "no training"
    assert ("--data-dir" in made.script) == (kind == "slurm"), "a container sees its run alone"
    if kind == "slurm":
        assert "--nodes=2 --ntasks=2 --ntasks-per-node=1" in made.script
