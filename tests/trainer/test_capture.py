"""Profiles from inside the trainer: what they hold, what they leave as it was, what they refuse."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter

import psutil
import pytest

from tests.requirements import need
from tests.trainer.conftest import command, environment, execute, make_spec
from trainer import capture, nsight
from trainer.contract import (
    ContractError,
    Device,
    Flag,
    Profiler,
    RunResult,
    RunSpec,
    Stall,
    WindowKind,
    loads,
)
from trainer.failures import BadInputError, ProfileError
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


@pytest.fixture(scope="module")
def nsys() -> None:
    try:
        nsight.find("nsys", os.environ)
    except BadInputError as error:
        need(False, f"Nsight Systems (tests/install_nsys.sh): {error}")


@pytest.mark.slow
def test_nsys_leaves_one_database_per_rank_with_every_range(nsys, plain, data, tmp_path):
    done = execute(base(profiler=Profiler.NSYS), tmp_path / "run", data)
    assert done.code == 0, done.output
    assert done.result.parameter_hash == plain.result.parameter_hash
    for rank in (0, 1):
        path = done.run_dir / "profiles" / f"rank{rank}.sqlite"
        assert path.exists(), done.output
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows = database.execute(
                "select coalesce(text, value), count(*) from NVTX_EVENTS "
                "left join StringIds on id = textId where end is not null group by 1"
            )
            counts = dict(rows)
        for name in ("step", "data", "forward", "backward", capture.WAIT, "optimizer"):
            assert counts[name] == STEPS, counts
        assert counts["collective"] >= STEPS
    assert not list((done.run_dir / "profiles").glob("*.problem.txt"))


@pytest.mark.slow
def test_a_failing_run_keeps_its_exit_code_under_nsys(nsys, tmp_path):
    spec = base(ranks=1, per_rank_batch=16, profiler=Profiler.NSYS)
    done = execute(spec, tmp_path / "run", tmp_path / "nowhere")
    assert done.code == 1
    assert "dataset.json" in done.result.reason


def training(run_dir, data):
    """A run under nsys that would go on for long, once it has timed a window."""
    spec = base(ranks=1, per_rank_batch=16, epochs=100_000, profiler=Profiler.NSYS)
    line = command(spec, run_dir, data)
    process = subprocess.Popen(line, cwd=run_dir.parent, env=environment())
    deadline = time.monotonic() + 60
    journal = run_dir / "metrics.jsonl"
    while not (journal.exists() and '"window"' in journal.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_sigterm_reaches_the_trainer_below_nsys(nsys, data, tmp_path):
    run_dir = tmp_path / "run"
    process = training(run_dir, data)
    process.terminate()
    assert process.wait(60) == 1
    result = loads(RunResult, (run_dir / "result.json").read_bytes())
    assert "SIGTERM" in result.reason


@pytest.mark.slow
def test_a_profiler_that_dies_takes_its_run_along_and_says_so(nsys, data, tmp_path):
    """nsys then ends with exit code 0, at once, and leaves the trainer running."""
    run_dir = tmp_path / "run"
    process = training(run_dir, data)
    (agent,) = [found for found in below(run_dir) if "--start-agent" in found.cmdline()]
    agent.kill()
    assert process.wait(60) == 1
    result = loads(RunResult, (run_dir / "result.json").read_bytes())
    assert "ended before the training did" in result.reason
    assert below(run_dir) == []


def below(run_dir) -> list[psutil.Process]:
    """The processes that live under a profiler of *run_dir*."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(nsight.INSIDE, "").startswith(f"{run_dir}/"):
                found.append(process)
    return found


ENDED, GAVE_UP = "nsys ended before the training did", "nsys gave up before the training began"
WAYS = [
    # A profiler that gave up twice before the trainer began: it did not see what came of it.
    ("[ $(wc -l <tries) = 3 ] || exit 1; printf completed >$SAID", 3, 0),
    ("printf completed >$SAID; exit 9", 1, 0),
    ("printf begun >$SAID; exit 5", 1, 5),
    ("printf begun >$SAID; kill -KILL $$", 1, 137),
    ("printf begun >$SAID; setsid sleep 60 & exit 0", 1, ENDED),
    ("setsid sleep 60 & exit 0", 3, GAVE_UP),
    ("exit 3", 3, GAVE_UP),
]


@pytest.mark.parametrize(("body", "tries", "outcome"), WAYS)
def test_the_trainer_s_own_words_decide_what_became_of_it(
    tmp_path, monkeypatch, body, tries, outcome
):
    monkeypatch.chdir(tmp_path)
    tool = nsight.Tool(path="nsys", profiler=Profiler.NSYS, gpu=False, folder=tmp_path, rank=0)
    script = ["bash", "-c", f"echo >>tries; {body.replace('$SAID', f'${nsight.INSIDE}')}"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        if isinstance(outcome, str):
            with pytest.raises(ProfileError, match=outcome):
                nsight._supervised(tool, script)
        else:
            assert nsight._supervised(tool, script) == outcome
    finally:
        signal.signal(signal.SIGTERM, before)
    assert below(tmp_path) == []
    assert not list(tmp_path.glob("rank0.*"))
    assert len((tmp_path / "tries").read_text().splitlines()) == tries


@pytest.mark.slow
def test_a_missing_profiler_is_said_before_training(data, tmp_path):
    python = tmp_path / "bin"
    python.mkdir()
    spec = base(ranks=1, per_rank_batch=16, device=Device.AUTO, profiler=Profiler.NCU)
    done = execute(spec, tmp_path / "run", data, PATH=str(python))
    assert done.code == 2
    assert "no ncu on PATH" in done.output
    assert "Nsight Compute" in done.result.reason


def test_an_installation_beside_the_path_is_found(tmp_path):
    home = tmp_path / "2025.1/bin"
    home.mkdir(parents=True)
    (home / "nsys").write_text("#!/bin/sh\n")
    (home / "nsys").chmod(0o755)
    assert nsight.find("nsys", {"PATH": "/nowhere"}, (f"{tmp_path}/*/bin",)) == str(home / "nsys")


@pytest.mark.parametrize(
    ("gpu", "says"), [(False, "--trace=nvtx"), (True, "--capture-range=cudaProfilerApi")]
)
def test_nsys_waits_for_cuda_where_there_is_a_gpu(tmp_path, gpu, says):
    tool = nsight.Tool(
        path="nsys", profiler=Profiler.NSYS, gpu=gpu, folder=tmp_path / "profiles", rank=3
    )
    assert says in tool.prefix
    assert tool.prefix[-2:] == ("-o", str(tmp_path / "profiles/rank3"))


def test_gpu_is_guessed_without_torch(tmp_path):
    (tmp_path / "dev").mkdir()
    spec = base(profiler=Profiler.NSYS)
    assert not nsight.uses_gpu(spec, {}, tmp_path)
    (tmp_path / "dev/nvidiactl").touch()
    assert nsight.uses_gpu(spec, {}, tmp_path)
    assert not nsight.uses_gpu(spec, {"CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert not nsight.uses_gpu(base(profiler=Profiler.NSYS, device=Device.CPU), {}, tmp_path)


@pytest.mark.parametrize(("made", "says"), [(None, "nothing was captured"), ("rank0", "no SQLite")])
def test_a_profile_that_is_missing_or_empty_is_a_problem(tmp_path, made, says):
    """A profiler that exports nothing and calls it success."""
    fake = tmp_path / "nsys"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    tool = nsight.Tool(path=str(fake), profiler=Profiler.NSYS, gpu=False, folder=tmp_path, rank=0)
    if made:
        (tmp_path / f"{made}.nsys-rep").touch()
    assert says in nsight.finish(tool)


def test_counters_kept_for_administrators_are_named(tmp_path, monkeypatch):
    params = tmp_path / "proc/driver/nvidia/params"
    params.parent.mkdir(parents=True)
    params.write_text("RmProfilingAdminOnly: 1\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BadInputError, match="ERR_NVGPUCTRPERM"):
        nsight.check_permission(tmp_path)
    params.write_text("RmProfilingAdminOnly: 0\n")
    nsight.check_permission(tmp_path)


def test_secrets_of_the_environment_do_not_reach_the_report():
    kept = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "RANK": "0", "NCCL_DEBUG": "INFO"}
    secret = {
        "HF_TOKEN": "1",
        "AWS_SECRET_ACCESS_KEY": "2",
        "AWS_ACCESS_KEY_ID": "3",
        "PGPASSWORD": "4",
        "WANDB_API_KEY": "5",
        "SENTRY_DSN": "6",
    }
    assert nsight.harmless(kept | secret) == kept
