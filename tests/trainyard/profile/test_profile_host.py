"""Machines without a GPU: planted stalls are named, phases are exclusive."""

from __future__ import annotations

import pytest

from benchmarks.profile_generator import MS, host_timeline
from benchmarks.profile_nsys import write_nsys
from trainyard.profile.analysis import analyse
from trainyard.profile.readers import read_trace
from trainyard.profile.result import Bound, Mode

STEP = {"data": MS // 5, "forward": 6 * MS, "backward": 12 * MS, "optimizer": 2 * MS}


def profile(tmp_path, *ranks):
    paths = [write_nsys(tmp_path / f"r{n}.sqlite", made) for n, made in enumerate(ranks)]
    return analyse(read_trace(paths))


def ms(rank, part):
    return float(rank.frame[part].mean()) / MS


def test_phases_are_exclusive_and_add_up(tmp_path):
    found = profile(tmp_path, host_timeline(STEP | {"": MS}, collective=3 * MS))
    [rank] = found.ranks
    assert found.mode is Mode.HOST
    seen = {part: ms(rank, part) for part in ("data", "forward", "backward", "collective", "other")}
    assert seen == {"data": 0.2, "forward": 6, "backward": 9, "collective": 3, "other": 1}
    assert ms(rank, "backward_total") == 12
    assert rank.explained
    assert rank.fractions["overlap"].value == 0


@pytest.mark.parametrize(
    ("phases", "bound"),
    [
        (STEP, Bound.COMPUTE),
        (STEP | {"data": 5 * MS}, Bound.INPUT),
        (STEP | {"": 5 * MS}, Bound.HOST),
    ],
)
def test_planted_stalls_are_named(tmp_path, phases, bound):
    ranks = [host_timeline(phases, collective=MS) for _ in range(2)]
    verdict = profile(tmp_path, *ranks).verdict
    assert verdict.bound is bound
    assert verdict.slow_rank is None
    if bound is not Bound.COMPUTE:
        cause = {Bound.INPUT: "waiting for data", Bound.HOST: "outside any phase"}[bound]
        assert verdict.recoverable[0].name == cause
        assert verdict.recoverable[0].ms.value == pytest.approx(5)


@pytest.mark.parametrize("part", ["data", "forward", ""])
def test_a_planted_slow_rank_is_named_with_the_part_that_is_longer(tmp_path, part):
    slow = STEP | {part: STEP.get(part, 0) + 8 * MS}
    # The others reach the collective 8 ms earlier and wait in it, so that steps stay equal.
    fast = STEP | {"backward": 20 * MS}
    if part == "":
        slow = {"": 8 * MS, **STEP}
    ranks = [
        host_timeline(fast, collective=9 * MS),
        host_timeline(slow, collective=MS),
        host_timeline(fast, collective=9 * MS),
    ]
    found = profile(tmp_path, *ranks)
    assert found.verdict.slow_rank == 1
    assert found.verdict.headline.startswith("Rank 1 is slow: the others wait for it, 8.00 ms")
    label = part or "code outside any phase"
    assert f"8.00 ms more than the others in {label}" in str(found.verdict.findings)


def test_a_collective_beside_computation_is_hidden(tmp_path):
    import sqlite3

    path = write_nsys(tmp_path / "r0.sqlite", host_timeline(STEP | {"": 2 * MS}, collective=4 * MS))
    base = sqlite3.connect(path)
    # Another thread reduces gradients: from 4 ms before the end of backward to 4 ms after it.
    base.execute(
        "UPDATE NVTX_EVENTS SET globalTid = globalTid + 1, end = end + 4000000 "
        "WHERE text = 'collective'"
    )
    base.commit()
    base.close()
    [rank] = analyse(read_trace([path])).ranks
    assert ms(rank, "collective_total") == pytest.approx(8, rel=0.03)
    assert ms(rank, "backward") == 12
    assert ms(rank, "collective") == pytest.approx(2, rel=0.03), "2 ms lie in no phase"
    assert rank.fractions["overlap"].value == pytest.approx(0.75, rel=0.02)


def test_a_collective_that_another_thread_ends_counts_where_it_is_waited_for(tmp_path):
    """As the trainer marks them: begun by the stepping thread, ended by gloo's."""
    import sqlite3

    phases = {"forward": 6 * MS, "backward": 12 * MS, "wait for gradients": 3 * MS, "": MS}
    path = write_nsys(tmp_path / "r0.sqlite", host_timeline(phases, collective=4 * MS))
    base = sqlite3.connect(path)
    base.execute("ALTER TABLE NVTX_EVENTS ADD COLUMN endGlobalTid INTEGER")
    # The results are there 1 ms before the stepping thread goes on.
    base.execute(
        "UPDATE NVTX_EVENTS SET endGlobalTid = globalTid + 1, end = end + 2000000 "
        "WHERE text = 'collective'"
    )
    base.commit()
    base.close()
    [rank] = analyse(read_trace([path])).ranks
    assert ms(rank, "backward") == 12
    assert ms(rank, "collective") == pytest.approx(3)
    assert ms(rank, "collective_total") == pytest.approx(7)
    assert ms(rank, "other") == pytest.approx(1)
    assert rank.fractions["overlap"].value == pytest.approx(4 / 7, rel=0.01)


def test_operators_are_ranked_by_the_time_they_spend_themselves():
    from trainyard.profile.model import Format, RankTrace, events
    from trainyard.profile.operators import operator_table
    from trainyard.profile.steps import windows_of

    rows = [  # name, thread, start, end
        (0, 1, 0, 100),
        (1, 1, 0, 60),
        (2, 1, 10, 30),
        (2, 1, 30, 35),
        (1, 1, 70, 90),
        (2, 2, 5, 25),
        (2, 1, 150, 160),
    ]
    name, thread, start, end = zip(*rows, strict=True)
    step = events(start=[0], end=[120], name=[3], thread=[1])
    rank = RankTrace(
        rank=0,
        source="hand",
        format=Format.TORCH,
        names=("outer", "middle", "inner", "step 0"),
        operators=events(name=name, thread=thread, start=start, end=end),
        ranges=step,
    )
    table = operator_table(rank, windows_of(rank))
    assert {item.name: (item.calls, item.self_ns) for item in table} == {
        "middle": (2, 35 + 20),
        "inner": (3, 20 + 5 + 20),
        "outer": (1, 20),
    }
    assert [item.name for item in table] == ["middle", "inner", "outer"]
