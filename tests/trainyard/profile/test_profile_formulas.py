"""Every formula against its definition, moment by moment, on random small traces."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainyard.profile.device import device_times, pageable_share
from trainyard.profile.model import Copy, Format, Kind, RankTrace, events
from trainyard.profile.steps import windows_of

END = 40
NAMES = ("k", "step 0", "data", "cudaLaunchKernel", "cudaStreamSynchronize")
K, STEP, DATA, LAUNCH, SYNC = range(5)
SPAN = st.tuples(st.integers(0, END - 1), st.integers(1, 6)).map(lambda s: (s[0], s[0] + s[1]))
WORK = st.tuples(
    SPAN,
    st.sampled_from(["compute", "collective", "h2d", "other", "set"]),
    st.integers(0, 2),
    st.integers(0, 8),
)
"""Interval, kind, stream, and how long before its start it was launched."""
KINDS = {
    "compute": (Kind.COMPUTE, Copy.UNKNOWN),
    "collective": (Kind.COLLECTIVE, Copy.UNKNOWN),
    "h2d": (Kind.COPY, Copy.HTOD),
    "other": (Kind.COPY, Copy.DTOH),
    "set": (Kind.SET, Copy.UNKNOWN),
}


def trace_of(work, data, sync, edges):
    # One device event per moment: which of two that begin together was launched late is undefined.
    work = sorted({item[0][0]: item for item in work}.values())
    spans = [item[0] for item in work]
    kinds = [KINDS[item[1]] for item in work]
    count = len(work)
    device = events(
        start=[a for a, _ in spans],
        end=[b for _, b in spans],
        name=[K] * count,
        kind=[kind for kind, _ in kinds],
        copy=[copy for _, copy in kinds],
        stream=[item[2] for item in work],
        device=[0] * count,
        correlation=range(count),
        bytes=[1] * count,
        pageable=[0] * count,
    )
    calls = [
        (a - item[3], a - item[3], LAUNCH, place)
        for place, (item, (a, _)) in enumerate(zip(work, spans, strict=True))
    ]
    calls += [(a, b, SYNC, -1) for a, b in sync]
    ranges = [(a, b, STEP) for a, b in edges] + [(a, b, DATA) for a, b in data]
    host = {
        "calls": events(
            start=[c[0] for c in calls], end=[c[1] for c in calls], name=[c[2] for c in calls],
            correlation=[c[3] for c in calls], thread=[1] * len(calls),
        ),
        "ranges": events(
            start=[r[0] for r in ranges], end=[r[1] for r in ranges], name=[r[2] for r in ranges],
            thread=[1] * len(ranges),
        ),
    }  # fmt: skip
    return work, RankTrace(
        rank=0, source="random", format=Format.NSYS, names=NAMES, device=device, **host
    )


def moments(spans):
    return {moment for a, b in spans for moment in range(a, b)}


def late(work, busy):
    """Moments of gaps whose next work was launched when the gap had begun."""
    found = set()
    for (start, _), _, _, lead in work:
        if start - 1 in busy:
            continue
        before = [moment for moment in busy if moment < start]
        gap = max(before) + 1 if before else 0
        if start - lead >= gap:
            found |= set(range(gap, start))
    return found


@given(
    st.lists(WORK, min_size=1, max_size=14),
    st.lists(SPAN, max_size=4),
    st.lists(SPAN, max_size=4),
    st.integers(1, END - 1),
)
def test_parts_are_what_their_definitions_say(work, data, sync, cut):
    edges = [(0, cut), (cut, END)]
    work, trace = trace_of(work, data, sync, edges)
    of = {kind: moments([w[0] for w in work if w[1] == kind]) for kind in KINDS}
    compute, collective, h2d = of["compute"], of["collective"], of["h2d"]
    copies = h2d | of["other"] | of["set"]
    busy = compute | collective | copies
    everything = set(range(END))
    idle = everything - busy
    waits, waiting = moments(data) & idle, moments(sync) & idle
    slow = late(work, busy) & idle
    expected = {
        "busy": busy,
        "compute": compute,
        "communication": collective,
        "overlapped": collective & compute,
        "exposed_comm": collective - compute - copies,
        "exposed_h2d": h2d - compute - collective,
        "idle": idle,
        "data": waits,
        "sync": waiting - waits,
        "host": slow - waits - waiting,
        "sync_gap": waiting,
        "host_gap": slow,
    }
    if data:
        expected["data_gap"] = waits
    windows = windows_of(trace)
    assert windows.start.tolist() == [0, cut]
    frame = device_times(trace, windows).frame
    for name, wanted in expected.items():
        got = [int(value) for value in frame[name]]
        inside = [len(wanted & set(range(a, b))) for a, b in edges]
        assert got == inside, name
    parts = ["exposed_comm", "exposed_h2d", "other_copies", "data", "sync", "host", "unexplained"]
    # The reconciliation: the parts against |W| - |K|.
    assert (frame[parts].sum(axis=1) == frame["window"] - frame["compute"]).all()
    assert (frame[parts] >= 0).all().all()


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0, 1, -1])), min_size=1, max_size=6))
def test_the_pageable_share_is_of_bytes_whose_memory_is_known(copies):
    count = len(copies)
    device = events(
        start=range(count), end=range(1, count + 1), name=[K] * count, kind=[Kind.COPY] * count,
        copy=[Copy.HTOD] * count, stream=[0] * count, device=[0] * count,
        correlation=[-1] * count, bytes=[b for b, _ in copies], pageable=[p for _, p in copies],
    )  # fmt: skip
    rank = RankTrace(rank=0, source="x", format=Format.NSYS, names=NAMES, device=device)
    known = sum(b for b, p in copies if p >= 0)
    share = pageable_share(rank, windows_of(rank))
    if not known:
        assert share is None
    else:
        assert np.isclose(share, sum(b for b, p in copies if p == 1) / known)
