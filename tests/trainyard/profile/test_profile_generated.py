"""Generated traces whose truth is known: every schema, every profiler, within one per cent."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from benchmarks.profile_generator import CASES, MS, US, Segment, timeline
from benchmarks.profile_nsys import SCHEMAS, Schema, write_nsys
from benchmarks.profile_writers import write_torch
from trainyard.profile.analysis import analyse
from trainyard.profile.model import Kind
from trainyard.profile.readers import read_trace
from trainyard.profile.result import Bound

STEPS = 12
JITTER = 1 + 0.1 * np.random.default_rng(7).random(STEPS)
BOUND = {
    "compute bound": Bound.COMPUTE,
    "communication bound": Bound.COMMUNICATION,
    "input bound": Bound.INPUT,
    "host bound": Bound.HOST,
    "synchronising": Bound.HOST,
    "everything": Bound.INPUT,
    "one rank without collectives": Bound.COMPUTE,
}


def write(tmp_path, made, kind):
    if kind == "torch":
        return write_torch(tmp_path / "rank0.json.gz", made)
    return write_nsys(tmp_path / "r0.sqlite", made, SCHEMAS[kind])


def worst_error(frame, truth):
    """Largest relative error of any part; a part that is not there must be 0."""
    errors = []
    for part, expected in truth.items():
        got, wanted = float(frame[part].sum()), float(np.sum(expected))
        errors.append(abs(got - wanted) / wanted if wanted else got)
    return max(errors)


@pytest.mark.parametrize("kind", [*SCHEMAS, "torch"])
@pytest.mark.parametrize("case", CASES)
def test_every_part_is_recovered(tmp_path, case, kind):
    made = timeline(CASES[case], steps=STEPS, scale=JITTER)
    found = analyse(read_trace([write(tmp_path, made, kind)]))
    [rank] = found.ranks
    assert len(rank.frame) == STEPS
    assert worst_error(rank.frame, made.truth) < 0.01
    assert found.verdict.bound is BOUND[case]
    truth = {part: float(value.sum()) for part, value in made.truth.items()}
    assert rank.fractions["gpu_busy"].value == pytest.approx(
        truth["busy"] / truth["window"], rel=0.01
    )
    assert rank.fractions["gpu_busy"].contains(rank.fractions["gpu_busy"].value)
    if truth["communication"]:
        overlap = truth["overlapped"] / truth["communication"]
        assert rank.fractions["overlap"].value == pytest.approx(overlap, rel=0.01)
    else:
        assert rank.fractions["overlap"] is None, "null, not 0, when there is no communication"


@pytest.mark.parametrize("nccl", ["old", "new"])
def test_both_families_of_nccl_names_are_collectives(tmp_path, nccl):
    made = timeline(CASES["communication bound"], nccl=nccl)
    trace = read_trace([write_nsys(tmp_path / "r0.sqlite", made)])
    [rank] = trace.ranks
    assert int((rank.device.kind == Kind.COLLECTIVE).sum()) == 2 * 12


def test_graphs_seen_as_a_whole_are_busy_and_named_in_a_note(tmp_path):
    made = timeline(CASES["communication bound"])
    path = write_nsys(tmp_path / "r0.sqlite", made, Schema(graph="graph"))
    found = analyse(read_trace([path]))
    assert any("--cuda-graph-trace=node" in note.text and note.serious for note in found.notes)
    assert found.ranks[0].fractions["gpu_busy"].value == pytest.approx(1.0, abs=0.01)
    assert found.ranks[0].fractions["overlap"] is None


def test_without_calls_gaps_are_unknown_not_zero(tmp_path):
    path = write_nsys(
        tmp_path / "r0.sqlite",
        timeline(CASES["host bound"]),
        Schema(omit=("CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_DRIVER")),
    )
    found = analyse(read_trace([path]))
    [rank] = found.ranks
    assert rank.fractions["host_gap"] is None
    assert rank.fractions["sync_gap"] is None
    assert not rank.explained
    assert any(item.name == "unexplained time" and item.raised for item in found.verdict.findings)
    assert any("RUNTIME is missing" in note.text for note in found.notes)


def test_without_step_ranges_the_span_is_one_window_without_interval(tmp_path):
    made = timeline(CASES["compute bound"])
    path = write_nsys(tmp_path / "r0.sqlite", made, Schema(omit=("NVTX_EVENTS",)))
    found = analyse(read_trace([path]))
    [rank] = found.ranks
    assert len(rank.frame) == 1
    assert rank.fractions["gpu_busy"].low is None
    assert rank.fractions["data_gap"] is None
    assert any("names no steps" in note.text for note in found.notes)


def test_what_the_profiler_lost_is_told(tmp_path):
    schema = Schema(
        diagnostics=((1, "fine"), (2, "Not all CUDA events might have been collected."))
    )
    path = write_nsys(tmp_path / "r0.sqlite", timeline(CASES["compute bound"]), schema)
    notes = analyse(read_trace([path])).notes
    said = [note for note in notes if note.text.startswith("nsys says")]
    assert [note.serious for note in said] == [True]


SEGMENTS = [Segment("compute", 5 * MS, 10), Segment("comm", 1 * MS), Segment("compute", MS, 2)]


@pytest.mark.parametrize("utc", [True, False])
def test_the_late_rank_is_found_with_and_without_comparable_clocks(tmp_path, utc):
    slow = [Segment("compute", 8 * MS, 10), Segment("comm", 100 * US), Segment("compute", MS, 2)]
    fast = [Segment("compute", 5 * MS, 10), Segment("comm", 3_100 * US), Segment("compute", MS, 2)]
    paths = [
        write_nsys(
            tmp_path / f"r{rank}.sqlite", timeline(segments), Schema(utc=utc), epoch=10**18 + 7
        )
        for rank, segments in enumerate([fast, slow, fast])
    ]
    found = analyse(read_trace(paths))
    assert found.trace.aligned is utc
    waiting = found.stragglers
    assert waiting.last.tolist() == [0, 12, 0]
    assert waiting.waiting.mean(axis=1).tolist() == pytest.approx([3 * MS, 0, 3 * MS])
    assert waiting.exposed.mean(axis=1).tolist() == pytest.approx([3 * MS, 0, 3 * MS])
    assert found.verdict.slow_rank == 1
    assert found.verdict.recoverable[0].name == "waiting for the last rank"
    assert found.verdict.recoverable[0].ms.value == pytest.approx(3.0)
    assert found.verdict.headline.startswith("Rank 1 is slow: the others wait for it, 3.00 ms")
    assert "3.00 ms more than the others in compute" in str(found.verdict.findings)


def test_ranks_begun_at_different_times_are_laid_side_by_side(tmp_path):
    made = timeline(SEGMENTS)
    late = 40 * MS
    write_nsys(tmp_path / "r0.sqlite", made, epoch=10**18)
    # The same moments in UTC, by a session that began 40 ms later.
    write_nsys(
        tmp_path / "r1.sqlite", timeline(SEGMENTS, start=1_000_000 - late), epoch=10**18 + late
    )
    found = analyse(read_trace([tmp_path / "r0.sqlite", tmp_path / "r1.sqlite"]))
    first, second = found.ranks
    assert first.windows.start.tolist() == second.windows.start.tolist()
    assert found.verdict.slow_rank is None


def test_clocks_that_contradict_the_collectives_are_not_believed(tmp_path):
    # UTC says that rank 1 ran 4 ms later: it would have entered after the others had left.
    for rank, epoch in ((0, 10**18), (1, 10**18 + 4 * MS)):
        write_nsys(tmp_path / f"r{rank}.sqlite", timeline(SEGMENTS), epoch=epoch)
    found = analyse(read_trace([tmp_path / "r0.sqlite", tmp_path / "r1.sqlite"]))
    assert found.stragglers.basis == "durations"
    assert found.stragglers.waiting.sum() == 0
    assert found.verdict.slow_rank is None


def test_calls_of_a_process_that_used_no_device_are_not_taken_for_the_ranks(tmp_path):
    """Correlation ids repeat between processes: another's call is no launch of this one's work."""
    import sqlite3

    made = timeline(CASES["everything"])
    path = write_nsys(tmp_path / "r0.sqlite", made, pid=100)
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME "
            "SELECT start - 900000, end, eventClass, ?, correlationId, nameId, returnValue "
            "FROM CUPTI_ACTIVITY_KIND_RUNTIME",
            ((200 << 24) + 200,),
        )
    [rank] = analyse(read_trace([path])).ranks
    assert worst_error(rank.frame, made.truth) < 0.01


def test_processes_of_one_file_become_ranks(tmp_path):
    import sqlite3

    made = timeline(CASES["everything"])
    path = write_nsys(tmp_path / "node.sqlite", made, pid=100)
    write_nsys(tmp_path / "other.sqlite", made, pid=200)
    base = sqlite3.connect(path)
    base.execute("ATTACH ? AS other", (str(tmp_path / "other.sqlite"),))
    for table in ("KERNEL", "MEMCPY", "RUNTIME"):
        base.execute(
            f"INSERT INTO CUPTI_ACTIVITY_KIND_{table} "
            f"SELECT * FROM other.CUPTI_ACTIVITY_KIND_{table}"
        )
    base.execute("INSERT INTO NVTX_EVENTS SELECT * FROM other.NVTX_EVENTS")
    base.commit()
    base.close()
    trace = read_trace([path])
    assert [rank.rank for rank in trace.ranks] == [0, 1]
    two_nodes = read_trace([path, path])
    assert [rank.rank for rank in two_nodes.ranks] == [0, 1, 2, 3]
    for rank in analyse(trace).ranks:
        assert worst_error(rank.frame, made.truth) < 0.01, (
            "correlation ids repeat between processes"
        )
