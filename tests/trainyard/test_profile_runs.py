"""Planted stalls on the digits, trained and profiled for real: the verdict names each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.profile_overhead import PYTHON, Ended, analysed, there, train, write_digits
from tests.requirements import need
from trainer.contract import Flag, Profiler, RunSpec, Stall
from trainyard.errors import ProfileError
from trainyard.profile.result import Bound, ProfileAnalysis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STALL_MS = 120.0


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Path, str]:
    need(PYTHON.exists(), f"the trainer's environment is missing ({PYTHON}): make setup-test")
    folder = tmp_path_factory.mktemp("digits") / "data"
    return folder, write_digits(folder)


def spec_of(digest: str, **changes: object) -> RunSpec:
    made = RunSpec(
        name="planted",
        dataset_digest=digest,
        ranks=2,
        per_rank_batch=32,
        global_batch=64,
        steps=18,
        warmup_steps=2,
        window_steps=4,
        profile_steps=12,
        evaluate=False,
        profiler=Profiler.TORCH,
    )
    return replace(made, **changes)


def run(digits: tuple[Path, str], root: Path, **changes: object) -> tuple[Ended, ProfileAnalysis]:
    data, digest = digits
    spec = spec_of(digest, **changes)
    ended = train(spec, root, data)
    assert ended.code == 0, ended.output[-3000:]
    assert Flag.PROFILED in ended.result.flags
    return ended, analysed(ended, spec)


def test_a_planted_host_stall_binds_the_step_to_the_host(digits, tmp_path):
    _, found = run(digits, tmp_path, stall=Stall.HOST, stall_ms=STALL_MS)
    verdict = found.verdict
    assert verdict.bound is Bound.HOST
    assert verdict.slow_rank is None
    largest = verdict.recoverable[0]
    assert largest.name == "outside any phase"
    assert largest.ms.value >= STALL_MS


def test_a_planted_slow_rank_is_named_with_what_it_costs(digits, tmp_path):
    _, found = run(digits, tmp_path, stall=Stall.RANK, stall_ms=STALL_MS)
    verdict = found.verdict
    assert verdict.slow_rank == 1
    assert verdict.headline.startswith("Rank 1 is slow")
    largest = verdict.recoverable[0]
    assert largest.name == "waiting for the last rank"
    # What was planted, give or take the scatter of steps this short.
    assert 0.5 * STALL_MS < largest.ms.value < 2 * STALL_MS
    assert any("in forward" in item.text for item in verdict.findings if item.raised)


def test_without_a_stall_none_is_named(digits, tmp_path):
    """Whatever else loads the machine may slow a rank once: twice in a row is a false alarm."""
    for attempt in ("first", "second"):
        verdict = run(digits, tmp_path / attempt, per_rank_batch=64, global_batch=128)[1].verdict
        if verdict.bound not in {Bound.INPUT, Bound.HOST} and verdict.slow_rank is None:
            return
    pytest.fail(verdict.headline)


def test_nsys_sees_the_planted_input_stall_on_both_ranks(digits, tmp_path):
    need(there("nsys"), "Nsight Systems is missing: tests/install_nsys.sh")
    stalled = {"profiler": Profiler.NSYS, "stall": Stall.INPUT, "stall_ms": STALL_MS}
    stalled["bucket_cap_mb"] = 1  # several buckets, of which backward hides the first ones
    ended, found = run(digits, tmp_path, **stalled)
    assert [item.rank for item in found.ranks] == [0, 1]
    assert [len(item.windows.start) for item in found.ranks] == [12, 12]
    assert found.verdict.bound is Bound.INPUT
    assert found.verdict.suggestions[0].field == "loader_workers"
    for rank in found.ranks:
        hidden = rank.frame["collective_total"] - rank.frame["collective"]
        assert (hidden >= 0).all()
        assert (hidden > 0).any()
    assert not list(ended.paths.profiles.glob("*.problem.txt"))


def test_a_profiler_that_is_missing_is_said_before_training(digits, tmp_path):
    """ncu looks for a GPU's counters; here it is not even installed."""
    data, digest = digits
    spec = spec_of(digest, ranks=1, global_batch=32, profiler=Profiler.NCU)
    ended = train(spec, tmp_path, data, PATH=f"{tmp_path}:{Path(PYTHON).parent}:/usr/bin:/bin")
    assert ended.code != 0
    assert "set profiler = 'torch'" in ended.result.reason
    with pytest.raises(ProfileError, match="left no profile"):
        analysed(ended, spec)
