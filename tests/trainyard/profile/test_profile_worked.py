"""The worked case, and cases small enough to do by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainyard.profile.analysis import analyse
from trainyard.profile.clocks import align
from trainyard.profile.device import device_times, launch_times
from trainyard.profile.model import Copy, Format, Kind, RankTrace, events
from trainyard.profile.steps import is_step, phase_of, windows_of

MS = 1_000_000
NAMES = ("gemm", "ncclDevKernel_AllReduce", "memcpy", "cudaLaunchKernel", "cudaStreamSynchronize",
         "step 0", "data")  # fmt: skip


def rank(compute=(), collective=(), copies=(), calls=(), ranges=(), **more):
    rows = [(a, b, Kind.COMPUTE, 0) for a, b in compute]
    rows += [(a, b, Kind.COLLECTIVE, 1) for a, b in collective]
    rows += [(a, b, Kind.COPY, 2) for a, b in copies]
    start, end, kind, name = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(start, kind="stable")
    correlation = np.empty(len(rows), dtype=int)
    correlation[order] = np.arange(len(rows))
    host = {
        key: events(
            start=[a * MS for a, _, _, _ in table],
            end=[b * MS for _, b, _, _ in table],
            name=[NAMES.index(n) for _, _, n, _ in table],
            thread=[1] * len(table),
            correlation=[c for _, _, _, c in table],
        )
        for key, table in (("calls", calls), ("ranges", ranges))
    }
    return RankTrace(
        rank=0,
        source="hand",
        format=Format.NSYS,
        names=NAMES,
        device=events(
            start=start * MS, end=end * MS, kind=kind, name=name, correlation=correlation,
            stream=kind, device=[0] * len(rows), bytes=[1] * len(rows),
            copy=np.where(kind == Kind.COPY, Copy.HTOD, 0), pageable=[1] * len(rows),
        ),
        **host,
        **more,
    )  # fmt: skip


def times(trace):
    return device_times(trace, windows_of(trace)).frame.iloc[0] / MS


def test_the_worked_case_is_exact():
    trace = rank(compute=[(1, 2), (3, 4), (8, 9)], collective=[(2.5, 3.5), (4.5, 5.5)])
    found = analyse(align([trace])).ranks[0]
    [step] = (found.frame / MS).to_dict("records")
    assert step["window"] == 8
    assert step["overlapped"] == 0.5
    assert found.fractions["overlap"].value == 0.25
    assert step["idle"] == 3.5
    assert step["exposed_comm"] == 1.5
    assert found.fractions["gpu_busy"].value == 4.5 / 8


def test_streams_are_united_not_added():
    assert times(rank(compute=[(0, 4), (1, 5), (2, 3)]))["compute"] == 5


def test_copies_are_exposed_only_where_nothing_else_runs():
    step = times(rank(compute=[(2, 4)], collective=[(5, 6)], copies=[(0, 3), (5, 7)]))
    assert step["exposed_h2d"] == 2 + 1
    assert step["exposed_comm"] == 0
    assert step["other_copies"] == 1, "a copy beside a collective belongs to no exposed part"


def test_an_idle_gap_is_late_only_when_the_launch_came_after_the_last_work():
    early = rank(
        compute=[(0, 1), (3, 4)],
        calls=[(-1, 0, "cudaLaunchKernel", 0), (0.5, 0.7, "cudaLaunchKernel", 1)],
    )
    assert times(early)[["host_gap", "unexplained"]].tolist() == [0, 2]
    late = rank(
        compute=[(0, 1), (3, 4)],
        calls=[(-1, 0, "cudaLaunchKernel", 0), (1.5, 1.7, "cudaLaunchKernel", 1)],
    )
    assert times(late)[["host_gap", "unexplained"]].tolist() == [2, 0]


def test_gaps_may_overlap_but_parts_do_not():
    trace = rank(
        compute=[(0, 2), (8, 10)],
        calls=[(2, 5, "cudaStreamSynchronize", -1), (7.5, 7.6, "cudaLaunchKernel", 1)],
        ranges=[(0, 10, "step 0", -1), (4, 7, "data", -1)],
    )
    step = times(trace)
    assert step[["data_gap", "sync_gap", "host_gap"]].tolist() == [3, 3, 6]
    assert step[["data", "sync", "host", "unexplained"]].tolist() == [3, 2, 1, 0]


def test_waiting_for_data_without_ranges_is_what_the_main_thread_waited_in_the_system():
    names = (*NAMES, "pthread_cond_wait", "ioctl")
    system = events(start=[2 * MS, 5 * MS], end=[4 * MS, 6 * MS], name=[7, 8], thread=[1, 1])
    trace = rank(
        compute=[(0, 2), (6, 7)],
        calls=[(5.5, 5.7, "cudaLaunchKernel", 1)],
        system=system,
    )
    trace = RankTrace(
        **{f: getattr(trace, f) for f in trace.__dataclass_fields__} | {"names": names}
    )
    found = device_times(trace, windows_of(trace))
    assert found.data_basis == "OS-runtime waits of the main thread"
    assert found.frame["data_gap"].iloc[0] == 2 * MS


@pytest.mark.parametrize("scale", [1, 10**10])
def test_launches_are_found_by_dense_and_by_sparse_ids(scale):
    calls = events(
        start=[5, 6, 7, 8],
        end=[6, 7, 8, 9],
        name=[3] * 4,
        thread=[1] * 4,
        # The runtime's call and the driver's within it may share an id: the first one launched.
        correlation=[scale, 2 * scale, 2 * scale, -1],
    )
    wanted = np.array([2 * scale, scale, 3 * scale, -1])
    assert launch_times(calls, wanted).tolist() == [6, 5, -1, -1]


@pytest.mark.parametrize(
    "name", ["step", "step 12", "step_3", "ProfilerStep#7", "iteration 4", "train_step"]
)
def test_step_names(name):
    assert is_step(name)
    assert not phase_of(name)


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("data", "data"),
        ("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", "data"),
        ("DistributedDataParallel.forward", "forward"),
        ("Optimizer.step#SGD.step", "optimizer"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "backward"),
        ("gloo:all_reduce", "collective"),
        ("collective", "collective"),
        ("evaluate", ""),
        ("stepper", ""),
        ("metadata", ""),
    ],
)
def test_phase_names(name, phase):
    assert not is_step(name)
    assert phase_of(name) == phase


def test_a_pause_between_steps_belongs_to_no_step():
    trace = rank(
        compute=[(0, 30)],
        ranges=[(0, 2, "step 0", -1), (3, 5, "step 0", -1), (20, 22, "step 0", -1)],
    )
    windows = windows_of(trace)
    assert (windows.start / MS).tolist() == [0, 3, 20]
    assert (windows.end / MS).tolist() == [3, 5, 22]
