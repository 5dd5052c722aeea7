"""Profiles from inside the trainer: what they hold, what they leave as it was, what they refuse."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter

import pytest

from tests.trainer.conftest import execute, make_spec
from trainer.contract import ContractError, Flag, Profiler, RunSpec, Stall, WindowKind
from trainer.segments import segments

STEPS = 6


def base(**changes: object) -> RunSpec:
    values: dict[str, object] = {
        "ranks": 2,
        "per_rank_batch": 8,
        "epochs": 2,
        "profile_steps": STEPS,
    }
    return make_spec(**(values | changes))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return execute(base(), tmp_path_factory.mktemp("plain") / "run", data)


@pytest.fixture(scope="module")
def profiled(data, tmp_path_factory):
    spec = base(profiler=Profiler.TORCH)
    return execute(spec, tmp_path_factory.mktemp("torch") / "run", data)


def trace(run, rank: int) -> list[dict]:
    path = run.run_dir / "profiles" / f"rank{rank}.pt.trace.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


@pytest.mark.slow
def test_torch_leaves_one_trace_per_rank_with_every_range(profiled):
    assert profiled.code == 0, profiled.output
    for rank in (0, 1):
        events = trace(profiled, rank)
        marks = Counter(e["name"] for e in events if e.get("cat") == "user_annotation")
        for name in ("step", "data", "forward", "backward", "optimizer"):
            assert marks[name] == STEPS, (name, marks)
        assert any("allreduce" in e["name"] or "all_reduce" in e["name"] for e in events)
    assert not list((profiled.run_dir / "profiles").glob("*.partial"))


@pytest.mark.slow
def test_ranges_nest_in_their_step(profiled):
    marks = [e for e in trace(profiled, 0) if e.get("cat") == "user_annotation"]
    steps = sorted((e["ts"], e["ts"] + e["dur"]) for e in marks if e["name"] == "step")
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(steps))
    for event in marks:
        if event["name"] in {"data", "forward", "backward", "optimizer"}:
            begin, end = event["ts"], event["ts"] + event["dur"]
            assert any(a <= begin and end <= b for a, b in steps), event


@pytest.mark.slow
def test_a_profile_changes_no_parameter_and_flags_the_run(plain, profiled):
    assert profiled.result.parameter_hash == plain.result.parameter_hash
    assert Flag.PROFILED in profiled.result.flags
    assert Flag.PROFILED not in plain.result.flags
    assert profiled.result.sane


@pytest.mark.slow
def test_captured_steps_are_not_timed(plain, profiled):
    timed = sum(w.steps for w in profiled.result.windows if w.kind is WindowKind.TRAIN)
    total = sum(e.steps for e in profiled.result.epochs)
    assert total == sum(e.steps for e in plain.result.epochs)
    assert timed <= total - STEPS - 2


@pytest.mark.slow
def test_bucket_ranges_for_nsight_compute_what_ddp_computes(plain, data, tmp_path):
    """Without Nsight around it the ranges go nowhere; the gradients must stay the same."""
    done = execute(base(profiler=Profiler.NSYS), tmp_path / "run", data)
    assert done.code == 0, done.output
    assert done.result.parameter_hash == plain.result.parameter_hash


@pytest.mark.slow
def test_a_run_too_short_to_profile_is_refused(data, tmp_path):
    spec = base(ranks=1, per_rank_batch=16, epochs=0, steps=STEPS, profiler=Profiler.TORCH)
    done = execute(spec, tmp_path / "run", data)
    assert done.code == 2
    assert "needs 8" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stall", "slow"), [(Stall.INPUT, {"data"}), (Stall.HOST, set()), (Stall.RANK, {"forward"})]
)
def test_a_planted_stall_shows_where_it_was_planted(data, tmp_path, stall, slow):
    stalled_ms = 40.0
    spec = base(profiler=Profiler.TORCH, stall=stall, stall_ms=stalled_ms, epochs=1, evaluate=False)
    done = execute(spec, tmp_path / "run", data)
    assert done.code == 0, done.output
    for rank in (0, 1):
        marks = [e for e in trace(done, rank) if e.get("cat") == "user_annotation"]
        spent = Counter()
        for event in marks:
            spent[event["name"]] += event["dur"] / 1000 / STEPS
        expected = slow if stall is not Stall.RANK or rank == 1 else set()
        for name in ("data", "forward", "optimizer"):
            assert (spent[name] >= stalled_ms) == (name in expected), (rank, name, spent)
        if stall is Stall.HOST:
            inside = spent["data"] + spent["forward"] + spent["backward"] + spent["optimizer"]
            assert spent["step"] - inside >= stalled_ms


def test_segments_keep_the_captured_end_apart():
    found = [(p.first, p.last, p.timed, p.captured) for p in segments(0, 50, 10, 20, 12)]
    assert found == [
        (0, 10, False, False),
        (10, 30, True, False),
        (30, 38, False, False),
        (38, 50, False, True),
    ]
    resumed = [(p.first, p.last, p.captured) for p in segments(45, 50, 10, 20, 12)]
    assert resumed == [(45, 50, True)]
    assert segments(50, 50, 10, 20, 12) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"profiler": Profiler.NCU}, "replayed collective"),
        ({"stall": Stall.HOST}, "belong together"),
        ({"stall_ms": 5.0}, "belong together"),
        ({"ranks": 1, "stall": Stall.RANK, "stall_ms": 5.0}, "ranks = 2"),
        ({"profile_steps": 0}, "must be 1 or more"),
    ],
)
def test_specs_that_cannot_be_profiled_are_refused(changes, says):
    with pytest.raises(ContractError, match=says):
        base(**changes)
