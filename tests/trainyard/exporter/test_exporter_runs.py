"""Live runs as the exporter shows them: half-written lines, restarts, deletions, thousands."""

from __future__ import annotations

import json
import math
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.samples import make_spec
from trainer.contract import dumps
from trainyard.backends import claims
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.exporter import runs as module
from trainyard.exporter.catalogue import CATALOGUE, Sheet, families
from trainyard.exporter.live import Progress
from trainyard.exporter.runs import Limits, LiveRuns
from trainyard.exporter.sources import Exporter
from trainyard.paths import RunPaths
from trainyard.sites import Site

NOW = 1_800_000_000.0


def event(kind, second=0, /, **more):
    return json.dumps({"event": kind, "time": f"2027-01-15T08:00:{second:02}+00:00", **more})


def window(step=40, **changes):
    values = {
        "kind": "train", "index": 0, "steps": 20, "images": 1280, "seconds_by_rank": [0.5, 0.4],
        "foreign_load": 0.25, "step": step, "loss": 1.5, "cpu_seconds": 0.8, "data_wait_s": 0.05,
        "resident_bytes": 6e8,
    }  # fmt: skip
    return event("window", 3, **values | changes)


EPOCH = event("epoch", 4, index=1, train_accuracy=0.75, train_loss=1.2)
LINES = [
    event("phase", 0, name="setup"),
    event("plan", 1, step=0, steps=192, per_epoch=12),
    event("phase", 2, name="train"),
    window(),
    window(step=40, kind="no_sync", loss=None, seconds_by_rank=[9.0, 9.0]),
    EPOCH,
    event("flag", 5, name="foreign_load", detail="1.2 cores"),
]


class Place:
    """A site with its run folders, and what the exporter says of it."""

    def __init__(self, folder, **limits):
        self.root = folder / "runs"
        self.root.mkdir()
        self.now = NOW
        self.site = Site(
            name="here", python="python", runs_dir=str(self.root), data_dir="/data", cores=2
        )
        self.source = LiveRuns([self.site], Limits(**limits), clock=lambda: self.now)

    def run(self, name="r1", lines=LINES, ended=None):
        paths = RunPaths(root=self.root, run_id=name)
        paths.run_dir.mkdir()
        paths.spec.write_text(dumps(make_spec()))
        os.utime(paths.spec, (self.now - 60, self.now - 60))
        paths.metrics.write_text("".join(f"{line}\n" for line in lines))
        if ended is not None:
            self.end(paths, ended)
        return paths

    def end(self, paths, at):
        paths.exit_code.write_text("0\n")
        os.utime(paths.exit_code, (at, at))

    def read(self):
        sheet = Sheet()
        self.source.read(sheet)
        return sheet.samples

    def value(self, name, *more, run="r1"):
        labels = (run, "", "resnet18_small", "2", "here", *more)
        return self.read().get(name, {}).get(labels)

    def shown(self):
        return {labels[0] for labels in self.read().get("trainyard_run_active", {})}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_run_that_goes_on(place):
    place.run()
    expected = {
        "active": 1, "started_timestamp_seconds": NOW - 60, "step": 40, "planned_steps": 192,
        "epoch": 2, "images_per_second": 2560, "step_time_seconds": 0.025, "loss": 1.5,
        "train_accuracy_ratio": 0.75, "data_wait_ratio": 0.1, "rank_imbalance_ratio": 0.2,
        "cpu_busy_cores": 1.6, "foreign_load_cores": 0.25, "resident_memory_bytes": 6e8,
        "deadline_timestamp_seconds": NOW - 60 + 3600,
        "last_event_timestamp_seconds": NOW - NOW % 86400 + 8 * 3600 + 5,
    }  # fmt: skip
    for name, value in expected.items():
        assert place.value(f"trainyard_run_{name}") == pytest.approx(value), name
    assert place.value("trainyard_run_phase", "train") == 1
    assert place.value("trainyard_run_flag", "foreign_load") == 1
    assert place.value("trainyard_run_gpu_utilisation_ratio") is None, "no GPU: absent, not 0"
    assert place.read()["trainyard_runs_active"] == {("here",): 1}


def test_what_an_older_trainer_does_not_say_is_absent(place):
    old = json.loads(window(loss=1.0))
    for key in ("data_wait_s", "cpu_seconds", "resident_bytes"):
        del old[key]
    place.run(lines=[json.dumps(old)])
    assert place.value("trainyard_run_loss") == 1.0
    assert place.value("trainyard_run_data_wait_ratio") is None
    assert place.value("trainyard_run_resident_memory_bytes") is None


def test_study_and_deadline_come_from_the_claim(place, tmp_path, monkeypatch):
    paths = place.run()
    task = TaskIdentity(dag_id="d", dag_run_id="r", task_id="t", map_index=3)
    claims.take(paths, Claim(plan=str(tmp_path / "plan.json"), index=0, task=task))

    class Study:
        study_id, site = "study-7", place.site

    monkeypatch.setattr(module, "_plan", lambda path: Study if path.name == "plan.json" else None)
    (labels,) = place.read()["trainyard_run_active"]
    assert labels == ("r1", "study-7", "resnet18_small", "2", "here")


def test_a_run_that_said_nothing_waits(place):
    place.run("r1", lines=[])
    place.run("r2")
    place.now += 40
    samples = place.read()
    assert samples["trainyard_runs_active"] == {("here",): 2}
    assert samples["trainyard_runs_waiting"] == {("here",): 1}
    assert samples["trainyard_runs_longest_wait_seconds"] == {("here",): 100}


def test_a_run_that_ended_stays_a_while_and_leaves(place):
    paths = place.run()
    assert place.value("trainyard_run_active") == 1
    place.end(paths, NOW)
    assert place.value("trainyard_run_active") == 0
    assert place.value("trainyard_run_deadline_timestamp_seconds") is None, "nothing is overdue"
    assert place.value("trainyard_run_loss") == 1.5
    place.now = NOW + 901
    assert place.shown() == set()
    assert place.read()["trainyard_run_folders"] == {(): 1}


def test_a_deleted_run_leaves_at_once(place):
    shutil.rmtree(place.run().run_dir)
    place.run("r2")
    assert place.shown() == {"r2"}
    shutil.rmtree(place.root / "r2")
    assert place.shown() == set()


def test_a_folder_without_a_spec_is_looked_at_again(place):
    paths = place.run()
    spec = paths.spec.read_text()
    paths.spec.write_text(spec[:40])
    assert place.shown() == set()
    paths.spec.write_text(spec)
    assert place.shown() == {"r1"}


def test_a_run_that_starts_over_forgets_what_it_said_before(place):
    paths = place.run()
    assert place.value("trainyard_run_epoch") == 2
    longer = paths.run_dir / "new"
    longer.write_text(event("phase", 1, name="setup") + "\n" + " " * 9000 + "\n")
    longer.replace(paths.metrics)
    assert place.value("trainyard_run_epoch") is None
    assert place.value("trainyard_run_phase", "setup") == 1


def test_a_requeued_run_comes_back_to_life(place):
    paths = place.run(ended=NOW - 10_000)
    assert place.shown() == set()
    paths.exit_code.unlink()
    assert place.value("trainyard_run_active") == 1


def test_a_silent_run_that_nobody_waits_for_is_abandoned(place):
    paths = place.run(lines=[])
    place.now = NOW + 7 * 3600
    assert place.shown() == set()
    task = TaskIdentity(dag_id="d", dag_run_id="r", task_id="t")
    other = place.run("r2", lines=[])
    place.now += 7 * 3600
    claims.take(other, Claim(plan="/nowhere/plan.json", index=0, task=task))
    assert place.shown() == {"r2"}
    assert paths.run_dir.exists()


def test_no_more_runs_than_the_limit_have_series(tmp_path):
    place = Place(tmp_path, most=3)
    for number in range(8):
        place.run(f"r{number}", ended=NOW - 1 if number < 6 else None)
    assert len(place.shown()) == 3
    assert {"r6", "r7"} <= place.shown(), "what goes on comes before what has ended"
    samples = place.read()
    assert samples["trainyard_runs_unlabelled"] == {(): 5}
    assert samples["trainyard_runs_active"] == {("here",): 2}


def test_of_thousands_of_ended_runs_no_file_is_opened_twice(place, monkeypatch):
    for number in range(1500):
        place.run(f"r{number}", lines=[], ended=NOW - 10_000)
    place.run("alive")
    assert place.shown() == {"alive"}
    looked = []
    monkeypatch.setattr(module, "_ended_at", lambda paths: looked.append(paths.run_id))
    assert place.shown() == {"alive"}
    assert looked == ["alive"]


def test_only_new_bytes_are_read(place):
    paths = place.run()
    assert place.value("trainyard_run_step") == 40
    with paths.metrics.open("a") as stream:
        stream.write(window(step=60) + "\n" + window(step=80)[:30])
        stream.flush()
        assert place.value("trainyard_run_step") == 60
        stream.write(window(step=80)[30:] + "\n")
    assert place.value("trainyard_run_step") == 80
    assert place.read()["trainyard_run_lines_skipped_total"] == {(): 0}


def test_a_line_that_a_crash_cut_off_is_counted_and_does_no_harm(place):
    paths = place.run()
    with paths.metrics.open("a") as stream:
        stream.write('{"event": "win\n' + window(step=99) + "\n")
    assert place.value("trainyard_run_step") == 99
    assert place.read()["trainyard_run_lines_skipped_total"] == {(): 1}


@pytest.mark.parametrize(
    "changes", [{"step": 10**400}, {"seconds_by_rank": [10**400]}, {"time": "0001-01-01T00:00:00"}]
)
def test_a_number_that_no_computer_holds_costs_its_line_alone(place, changes):
    paths = place.run()
    with paths.metrics.open("a") as stream:
        stream.write(json.dumps(json.loads(window()) | changes) + "\n" + window(step=99) + "\n")
    assert place.value("trainyard_run_step") == 99
    assert place.read()["trainyard_run_lines_skipped_total"] == {(): 1}


def test_a_folder_that_is_not_mounted_is_no_zero(place):
    shutil.rmtree(place.root)
    samples = place.read()
    assert "trainyard_runs_active" not in samples
    ((source, why),) = samples["trainyard_source_left_out"]
    assert source == "runs:here"
    assert "not mounted" in why
    place.root.mkdir()
    assert place.read()["trainyard_runs_active"] == {("here",): 0}, "an empty folder is a zero"


def test_folders_that_cannot_be_listed_are_no_zeros(tmp_path):
    place = Place(tmp_path)
    place.run()
    exporter = Exporter([place.source])
    (watched,) = exporter.watched
    watched.clock = lambda: place.now
    watched.look()
    assert named(exporter)["trainyard_source_up"] == {("runs",): 1}
    shutil.rmtree(place.root)
    place.root.write_text("a file where the mount should be")
    watched.look()
    found = named(exporter)
    assert found["trainyard_source_up"] == {("runs",): 0}
    assert found["trainyard_source_failures_total"] == {("runs",): 1}
    assert not [name for name in found if not name.startswith("trainyard_source_")]


def named(exporter):
    return {
        sample.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in exporter.collect()
        for sample in family.samples
    }


@given(cuts=st.lists(st.integers(1, 400), max_size=40))
def test_however_the_bytes_arrive_the_state_is_the_same(tmp_path_factory, cuts):
    place = Place(tmp_path_factory.mktemp("cut"))
    paths = place.run(lines=[])
    text = "".join(f"{line}\n" for line in [*LINES, window(step=60), EPOCH])
    with paths.metrics.open("a") as stream:
        for cut in cuts:
            stream.write(text[:cut])
            stream.flush()
            text = text[cut:]
            place.read()
        stream.write(text)
    assert place.value("trainyard_run_step") == 60
    assert place.value("trainyard_run_epoch") == 2
    assert place.read()["trainyard_run_lines_skipped_total"] == {(): 0}
    shutil.rmtree(place.root)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
KEYS = ["event", "time", "kind", "seconds_by_rank", "loss", "step", "steps", "images", "index",
        "foreign_load", "train_accuracy", "data_wait_s", "gpu_utilisation", "name"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), anything), st.sampled_from([LINES[3], EPOCH]))
def test_whatever_a_line_says_no_number_becomes_wrong(changes, line):
    progress = Progress()
    progress.take(json.dumps(json.loads(line) | changes))
    assert all(math.isfinite(value) for value in progress.values.values())
    assert all(f"trainyard_run_{name}" in CATALOGUE for name in progress.values)


@given(st.text(max_size=30))
def test_whatever_stands_in_a_line_nothing_breaks(line):
    Progress().take(line)


def test_every_metric_is_exported_with_its_labels(place):
    place.run()
    sheet = Sheet()
    place.source.read(sheet)
    for family in families([sheet]):
        for sample in family.samples:
            assert tuple(sample.labels) == CATALOGUE[sample.name].labels
