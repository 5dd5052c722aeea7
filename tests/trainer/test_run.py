"""Whole runs as a user starts them: one process, and two ranks under torchrun."""

import csv
import dataclasses
import json
import os

import pytest

from tests.trainer.conftest import execute, make_spec
from trainer.contract import (
    Control,
    Dataset,
    Flag,
    Model,
    Phase,
    Precision,
    Status,
    WindowKind,
)

pytestmark = pytest.mark.slow
BOTH = (Control.SYNTHETIC_INPUT, Control.NO_SYNC)


@pytest.fixture(scope="module")
def base():
    """Sixteen a step on one rank; the tail of an epoch is 6 samples."""
    return make_spec(
        epochs=3,
        per_rank_batch=16,
        learning_rate=0.05,
        warmup_steps=5,
        controls=BOTH,
        control_windows=2,
    )


@pytest.fixture(scope="module")
def one(base, data, tmp_path_factory):
    return execute(base, tmp_path_factory.mktemp("one") / "run-1", data, SLURM_JOB_ID="4711")


@pytest.fixture(scope="module")
def two(base, data, tmp_path_factory):
    spec = dataclasses.replace(base, ranks=2, per_rank_batch=8)
    return execute(spec, tmp_path_factory.mktemp("two") / "run-2", data)


def test_both_complete_and_are_sane(one, two):
    for run in (one, two):
        assert run.code == 0, run.output
        assert run.result.status is Status.COMPLETED
        assert run.result.phase is Phase.FINISHED
        assert run.result.sane, run.result.sanity
        assert {check.name for check in run.result.sanity} == {
            "reached_planned_end",
            "ranks_agree",
            "loss_finite",
            "samples_exactly_once",
        }


def test_two_ranks_compute_what_one_computes(one, two):
    """Same batches, batch-independent network: only the order of float32 sums differs."""
    for a, b in zip(one.result.epochs, two.result.epochs, strict=True):
        assert b.train_loss == pytest.approx(a.train_loss, rel=5e-3)
    assert two.metric("first_window_loss") == pytest.approx(one.metric("first_window_loss"), 1e-3)


def test_epochs_hold_every_sample_and_the_tail_step(one, two):
    for run in (one, two):
        assert [(e.index, e.steps, e.images) for e in run.result.epochs] == [
            (i, 10, 150) for i in range(3)
        ]


def test_windows_keep_the_time_of_every_rank(two):
    train = [w for w in two.result.windows if w.kind is WindowKind.TRAIN]
    assert len(train) == (30 - 5) // 4
    assert all(len(w.seconds_by_rank) == 2 and w.seconds > 0 for w in train)
    # Steps 6 to 9, then across the epoch border with its tail of 6 samples: 16+6+16+16.
    assert [w.images for w in train[:2]] == [4 * 16, 16 + 6 + 16 + 16]


def test_throughput_is_images_over_the_slowest_ranks_time(two):
    train = [w for w in two.result.windows if w.kind is WindowKind.TRAIN]
    expected = sum(w.images for w in train) / sum(max(w.seconds_by_rank) for w in train)
    assert two.metric("images_per_second") == pytest.approx(expected)


def test_controls_replay_the_last_train_windows(two):
    windows = two.result.windows
    train = [w for w in windows if w.kind is WindowKind.TRAIN]
    for kind in (WindowKind.SYNTHETIC_INPUT, WindowKind.NO_SYNC):
        found = [w for w in windows if w.kind is kind]
        assert [w.images for w in found] == [w.images for w in train[-2:]]
        assert [w.steps for w in found] == [4, 4]
    for name in ("step_time_synthetic_s", "step_time_no_sync_s", "step_time_paired_s"):
        assert two.metric(name) > 0


def test_controls_leave_no_trace_in_the_result(base, one, data, tmp_path):
    plain = execute(dataclasses.replace(base, controls=()), tmp_path / "run", data)
    assert plain.result.parameter_hash == one.result.parameter_hash
    assert plain.metric("test_loss") == one.metric("test_loss")
    assert plain.result.metric("step_time_no_sync_s") is None


def test_same_seed_same_losses_and_parameters(two, data, tmp_path):
    spec = json.loads((two.run_dir / "spec.json").read_text())
    again = execute(make_spec(**_members(spec)), tmp_path / "again", data)
    assert again.result.parameter_hash == two.result.parameter_hash
    assert [e.train_loss for e in again.result.epochs] == [e.train_loss for e in two.result.epochs]


def _members(spec: dict) -> dict:
    kept = ("epochs", "ranks", "per_rank_batch", "learning_rate", "warmup_steps")
    return {name: spec[name] for name in kept}


def test_metrics_carry_units(one):
    units = {metric.name: metric.unit for metric in one.result.metrics}
    assert units["images_per_second"] == "image/s"
    assert units["step_time_s"] == units["setup_s"] == units["epoch_time_s"] == "s"
    assert units["peak_memory_bytes"] == "B"
    assert units["flops_per_image"] == "FLOP"
    assert one.metric("setup_s") < one.metric("time_to_first_step_s")
    assert one.metric("peak_memory_bytes") > 100e6
    assert one.metric("parameters") == 77_562
    assert one.metric("rank_imbalance") == 0
    assert 0 < one.metric("cpu_busy_cores") < 2 * os.cpu_count()


def test_csv_row_per_epoch_stands_alone(one):
    rows = list(csv.DictReader((one.run_dir / "epochs.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    last, epoch = rows[-1], one.result.epochs[-1]
    assert last["run_id"] == "run-1"
    assert last["job_id"] == one.result.provenance.job_id == "4711"
    assert (last["nodes"], last["ranks"], last["global_batch"]) == ("1", "1", "16")
    assert last["precision"] == "fp32"
    assert float(last["train_loss"]) == epoch.train_loss
    assert float(last["epoch_time_s"]) == epoch.seconds
    assert float(last["test_accuracy"]) == epoch.test_accuracy == one.metric("test_accuracy")
    assert float(last["images_per_second"]) == pytest.approx(150 / epoch.seconds)
    assert last["git_commit"] == one.result.provenance.git_commit
    assert last["torch"]
    assert rows[0]["test_accuracy"] == ""


def test_metrics_jsonl_tells_the_run_in_order(two):
    events = two.events
    phases = [e["name"] for e in events if e["event"] == "phase"]
    assert phases == ["setup", "data", "warmup", "train", "evaluate", "control", "finished"]
    windows = [e for e in events if e["event"] == "window"]
    assert len(windows) == len(two.result.windows)
    assert windows[0]["loss"] == two.metric("first_window_loss")
    assert [e["index"] for e in events if e["event"] == "epoch"] == [0, 1, 2]
    assert events[-1] == events[-1] | {"event": "result", "status": "completed"}
    assert sorted(e["time"] for e in events) == [e["time"] for e in events]


def test_metrics_jsonl_tells_what_the_run_uses_while_it_goes_on(two):
    plan = next(e for e in two.events if e["event"] == "plan")
    assert (plan["step"], plan["steps"]) == (0, plan["per_epoch"] * 3)
    windows = [e for e in two.events if e["event"] == "window"]
    timed = [e for e in windows if e["kind"] == "train"]
    assert timed
    for event in timed:
        assert 0 < event["data_wait_s"] <= event["seconds_by_rank"][0]
        assert 0 <= event["cpu_seconds"] <= 2 * len(event["seconds_by_rank"]) * event["seconds"]
        assert event["resident_bytes"] > 50e6, "torch alone is larger"
        assert "gpu_utilisation" not in event, "no GPU: nothing to say, least of all 0"
    assert not [e for e in windows if e["kind"] != "train" and "data_wait_s" in e]


def test_provenance_and_machine(one, two):
    source = two.result.provenance
    assert (source.backend, source.device) == ("gloo", "cpu")
    assert source.started_at < source.ended_at
    assert source.argv[1].endswith("spec.json")
    assert len(source.git_commit) in (0, 40)
    machine = one.result.machines[0]
    assert machine.cores_usable <= machine.cores_total
    assert machine.memory_bytes > 1e9
    assert len(two.result.machines) == 1


def test_short_and_oversubscribed_are_flagged(one, data, tmp_path):
    assert Flag.SHORT in one.result.flags
    assert "windows of 4 steps, 20 needed" in " ".join(one.result.flag_details)
    assert not one.result.comparable
    threads = os.cpu_count() + 1
    many = execute(make_spec(epochs=1, threads_per_rank=threads), tmp_path / "run", data)
    assert many.code == 0
    assert Flag.OVERSUBSCRIBED in many.result.flags
    assert f"x {threads} threads" in " ".join(many.result.flag_details)


def test_base_without_ddp_steps_and_workers(one, base, data, tmp_path):
    """No process group, loader workers, a planned end inside an epoch."""
    spec = dataclasses.replace(
        base,
        distributed=False,
        controls=(Control.SYNTHETIC_INPUT,),
        epochs=0,
        steps=14,
        loader_workers=1,
    )
    run = execute(spec, tmp_path / "run", data)
    assert run.code == 0, run.output
    assert run.result.sane, run.result.sanity
    assert run.result.provenance.backend == "none"
    assert [(e.steps, e.images) for e in run.result.epochs] == [(10, 150), (4, 64)]
    assert run.metric("first_window_loss") == pytest.approx(one.metric("first_window_loss"), 0.05)


def test_accumulation_on_two_ranks_with_a_tail_that_leaves_one_idle(data, tmp_path):
    """150 samples in steps of 149: the last step has one sample, and rank 1 none."""
    spec = make_spec(ranks=1, per_rank_batch=149, epochs=2, distributed=False)
    alone = execute(spec, tmp_path / "alone", data)
    spec = make_spec(ranks=2, per_rank_batch=37, accumulation=2, epochs=2)  # 148: a tail of 2
    pair = execute(spec, tmp_path / "pair", data)
    assert alone.result.sane, alone.output
    assert pair.result.sane, pair.output
    assert pair.result.epochs[0].train_loss == pytest.approx(
        alone.result.epochs[0].train_loss, rel=0.02
    )


def test_loss_reference_gate(one, base, data, tmp_path):
    reference = one.metric("first_window_loss")
    spec = dataclasses.replace(base, controls=(), loss_reference=reference, loss_tolerance=1e-4)
    assert execute(spec, tmp_path / "near", data).result.sane
    spec = dataclasses.replace(spec, loss_reference=reference * 1.5, loss_tolerance=0.05)
    far = execute(spec, tmp_path / "far", data)
    assert far.code == 0  # it ran; whether its number counts is another matter
    assert not far.result.sane
    failed = [check for check in far.result.sanity if not check.passed]
    assert [check.name for check in failed] == ["loss_reference"]
    assert "limit 5.00%" in failed[0].detail


def test_synthetic_resnet18_runs_in_bf16(tmp_path):
    spec = make_spec(
        dataset=Dataset.SYNTHETIC,
        dataset_digest="",
        epochs=0,
        steps=2,
        per_rank_batch=2,
        model=Model.RESNET18,
        precision=Precision.BF16,
        evaluate=False,
        warmup_steps=1,
        window_steps=1,
    )
    run = execute(spec, tmp_path / "run", None)
    assert run.code == 0, run.output
    assert run.result.sane
    assert run.result.metric("test_accuracy") is None


def test_real_digits_reach_the_accuracy_on_one_and_two_ranks(real_digits, tmp_path):
    spec = make_spec(
        per_rank_batch=64, epochs=12, learning_rate=0.15, warmup_steps=10, window_steps=20
    )
    one = execute(spec, tmp_path / "one", real_digits)
    spec = make_spec(
        ranks=2, per_rank_batch=32, epochs=12, learning_rate=0.15, warmup_steps=10, window_steps=20
    )
    two = execute(spec, tmp_path / "two", real_digits)
    for run in (one, two):
        assert run.result.sane, run.output
        assert run.metric("test_accuracy") >= 0.97
        assert Flag.SHORT not in run.result.flags
    # 360 test images: half the width of a 95 % interval around 0.98 is 1.4 points.
    assert abs(one.metric("test_accuracy") - two.metric("test_accuracy")) <= 0.015
