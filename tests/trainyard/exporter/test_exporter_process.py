"""The exporter as a process, the health of its sources, and a real cluster's queue."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.airflow import write_sites
from tests.fixtures.settings import make_settings
from trainyard.exporter.catalogue import CATALOGUE, COUNTER, Sheet, families
from trainyard.exporter.queue import queues
from trainyard.exporter.sources import Exporter
from trainyard.sites import Launcher, Site
from trainyard.slurm.identity import JobKey
from trainyard.slurm.site import Reach, SlurmSite
from trainyard.store import migrate, open_store


class Slow:
    """A source that hangs when told to."""

    name, interval_s = "slow", 1.0

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()

    def read(self, sheet):
        self.gate.wait(20)
        sheet.put("trainyard_run_folders", 7)


def shown(exporter):
    return {s.name: s.value for family in exporter.collect() for s in family.samples}


def test_a_source_that_hangs_is_down_and_its_numbers_are_gone():
    now = [1000.0]
    source = Slow()
    exporter = Exporter([source])
    (watched,) = exporter.watched
    watched.clock = lambda: now[0]
    assert shown(exporter)["trainyard_source_up"] == 0, "nothing was read yet"
    watched.look()
    assert shown(exporter)["trainyard_run_folders"] == 7
    source.gate.clear()
    hanging = threading.Thread(target=watched.look, daemon=True)
    hanging.start()
    now[0] += 13.5
    after = shown(exporter)
    assert after["trainyard_source_up"] == 0
    assert "trainyard_run_folders" not in after
    source.gate.set()
    hanging.join(10)
    assert shown(exporter)["trainyard_source_up"] == 1


def test_half_a_reading_is_not_shown():
    class Torn(Slow):
        def read(self, sheet):
            sheet.put("trainyard_run_folders", 1)
            raise OSError("torn")

    exporter = Exporter([Torn()])
    exporter.watched[0].look()
    assert shown(exporter) == {"trainyard_source_up": 0, "trainyard_source_failures_total": 1}


def test_a_metric_that_nobody_described_is_refused():
    with pytest.raises(KeyError):
        Sheet().put("trainyard_made_up", 1)
    with pytest.raises(ValueError, match="has the labels"):
        Sheet().put("trainyard_runs_active", 1)


def test_names_follow_prometheus():
    for metric in CATALOGUE.values():
        assert re.fullmatch(r"trainyard_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert metric.help.endswith(".")
        assert len(set(metric.labels)) == len(metric.labels)
        assert not re.search(r"_(ms|milliseconds|percent|mb|kb)(_|$)", metric.name)


def test_counters_are_told_as_counters():
    sheet = Sheet()
    sheet.put("trainyard_run_lines_skipped_total", 3)
    (family,) = families([sheet])
    assert (family.type, family.samples[0].value) == ("counter", 3)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "runs").mkdir()
    settings = make_settings(tmp_path, sites_file=str(write_sites(tmp_path, "python")))
    with open_store(settings.results_url) as store:
        migrate(store)
    return tmp_path


def start(place, *more):
    command = [sys.executable, "-m", "trainyard.exporter", "--settings",
               str(place / "settings.toml"), "--port", "0", *more]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_the_process_serves_and_ends_when_told_to(place):
    with start(place, "--results-interval", "1") as process:
        try:
            line = process.stderr.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)[0]
            for _ in range(100):
                with urllib.request.urlopen(url, timeout=5) as answer:
                    text = answer.read().decode()
                if 'trainyard_source_up{source="results"} 1.0' in text:
                    break
                threading.Event().wait(0.1)
            found = {family.name for family in text_string_to_metric_families(text)}
            assert {"trainyard_build_info", "trainyard_runs_active", "trainyard_source_up"} <= found
            assert 'trainyard_source_up{source="runs"} 1.0' in text
            assert 'trainyard_source_up{source="results"} 1.0' in text
            assert "trainyard_nightly_expected 1.0" in text
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_bad_settings_end_it_with_what_to_do(place):
    (place / "settings.toml").write_text("nonsense = 1\n")
    with start(place) as process:
        assert process.wait(20) == 2
        assert "nonsense is unknown; choose from" in process.stderr.read()


def slurm_site(name, **slurm):
    return Site(
        name=name, launcher=Launcher.SLURM, python="python", runs_dir="/srv/runs-of-the-exporter",
        data_dir="/data", cores=2, slurm=SlurmSite(**slurm),
    )  # fmt: skip


def test_a_cluster_behind_an_airflow_connection_is_named_as_left_out():
    fixed = Sheet()
    sites = [slurm_site("far", connection="slurm_far"), slurm_site("login", reach=Reach.SSH)]
    assert queues(sites, fixed) == []
    why = "reached through an Airflow connection"
    assert fixed.samples["trainyard_source_left_out"] == {
        ("slurm:far", why): 1, ("slurm:login", why): 1,
    }  # fmt: skip


@pytest.mark.slow
def test_the_queue_of_a_real_cluster(slurm_cluster):
    """A running and a held job of ours, and one of somebody else's name."""
    site = slurm_site("cluster", slurm_conf=str(slurm_cluster.config.conf))
    ours = [JobKey(namespace=site.runs_dir, run_id=f"exporter-{n}").name for n in (1, 2)]
    script = "#!/bin/sh\nsleep 60\n"
    submit = ("sbatch", "--parsable", "--output=/dev/null", "--job-name")
    jobs = [
        slurm_cluster.ask(*submit, ours[0], stdin=script).strip(),
        slurm_cluster.ask(*submit, ours[1], "--hold", stdin=script).strip(),
        slurm_cluster.ask(*submit, "foreign", "--hold", stdin=script).strip(),
    ]
    try:
        (source,) = queues([site], Sheet())
        for _ in range(60):
            sheet = Sheet()
            source.read(sheet)
            counts = sheet.samples["trainyard_queue_jobs"]
            if counts["cluster", "running"]:
                break
            threading.Event().wait(0.5)
        assert counts == {
            ("cluster", s): n for s, n in [("pending", 1), ("running", 1), ("ending", 0)]
        }
        assert 0 <= sheet.samples["trainyard_queue_oldest_pending_seconds"]["cluster",] < 60
    finally:
        slurm_cluster.ask("scancel", *jobs)
