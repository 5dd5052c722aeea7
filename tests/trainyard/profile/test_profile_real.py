"""Real traces of real profilers (tests/fixtures/traces/README.md says how they were made)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainyard.profile.analysis import analyse
from trainyard.profile.readers import read_trace
from trainyard.profile.result import Bound, Mode

TRACES = Path(__file__).parents[2] / "fixtures" / "traces"
NSYS = [TRACES / f"nsys_cpu_r{rank}.sqlite" for rank in (0, 1)]
TORCH = [TRACES / f"torch_cpu_rank{rank}.json.gz" for rank in (0, 1)]


def mean_ms(rank, part):
    return float(rank.frame[part].mean()) / 1e6


def test_nsys_names_the_phases_and_the_slow_rank():
    found = analyse(read_trace(NSYS))
    assert found.mode is Mode.HOST
    first, second = found.ranks
    assert [len(rank.frame) for rank in found.ranks] == [12, 12]
    # What the program did, and what its sleeps and loops may overrun by.
    assert 4.0 <= mean_ms(first, "data") < 7
    assert 6.0 <= mean_ms(first, "forward") < 9
    assert 2.0 <= mean_ms(first, "optimizer") < 3, "start/end ranges count like push/pop ones"
    assert 10 < mean_ms(second, "backward") - mean_ms(first, "backward") < 14
    parts = first.frame[["forward", "backward", "optimizer", "collective", "data", "other"]]
    assert (parts.sum(axis=1) - first.frame["window"]).abs().max() == 0
    assert found.trace.aligned
    assert found.stragglers.last.tolist() == [0, 12]
    assert found.verdict.slow_rank == 1
    assert found.verdict.headline.startswith("Rank 1 is slow")
    assert "more than the others in backward" in str(found.verdict.findings)


def test_an_old_export_is_read_too():
    found = analyse(read_trace([TRACES / "nsys_2022_cpu.sqlite"]))
    [rank] = found.ranks
    assert len(rank.frame) == 12
    assert 4.0 <= mean_ms(rank, "data") < 15
    assert found.stragglers is None
    assert "one rank waits for nobody" in found.no_stragglers


def test_torch_profiler_names_phases_and_the_stalled_rank():
    found = analyse(read_trace(TORCH[::-1]))
    first, second = found.ranks
    assert [rank.rank for rank in found.ranks] == [0, 1], "the trace says its rank, not the order"
    assert found.trace.ranks[0].world == 2
    assert mean_ms(second, "other") > 10, "rank 1 sleeps outside any phase"
    assert mean_ms(first, "collective") > 10, "and rank 0 waits for it"
    assert min(mean_ms(first, part) for part in ("data", "forward", "backward", "optimizer")) > 0
    assert found.stragglers.last.tolist() == [0, 6]
    assert found.verdict.slow_rank == 1
    assert found.verdict.bound is Bound.HOST
    assert found.verdict.headline.startswith("Rank 1 is slow")
    assert "in code outside any phase" in str(found.verdict.findings)
    assert {"aten::addmm", "aten::convolution_backward"} <= {op.name for op in first.operators}
    assert sum(op.share for op in first.operators) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_real_trace_cut_short_is_an_error(tmp_path, share):
    from trainyard.errors import ProfileError

    for path in (NSYS[0], TORCH[0]):
        copy = tmp_path / path.name
        shutil.copy(path, copy)
        content = copy.read_bytes()
        copy.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ProfileError, match="truncated"):
            analyse(read_trace([copy]))
