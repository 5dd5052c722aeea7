"""Ranks on one clock: what may be laid side by side, and what must not."""

from __future__ import annotations

from dataclasses import replace

from trainyard.errors import ProfileError
from trainyard.profile.model import Clock, Note, RankTrace, Trace


def align(ranks: list[RankTrace]) -> Trace:
    """Return the job of *ranks*, shifted to the first rank's clock where all know UTC.

    Raises ``ProfileError`` for clocks that must not be mixed: different profilers, some with UTC
    and some without, one rank twice, or ranks that did not run at the same time.
    """
    ranks = sorted(ranks, key=lambda item: item.rank)
    if not ranks:
        raise ProfileError("No rank in any trace: give at least one trace file")
    _refuse_mixtures(ranks)
    if len(ranks) == 1:
        return Trace(ranks=tuple(ranks), aligned=True)
    if ranks[0].clock.epoch_ns is None:
        note = Note(
            text="The traces do not say when their sessions began in UTC: times of different "
            "ranks are not compared, waiting is taken from durations alone."
        )
        return Trace(ranks=tuple(ranks), aligned=False, notes=(note,))
    moved = tuple(_shifted(rank, ranks[0].clock) for rank in ranks)
    _refuse_apart(moved)
    hosts = {rank.clock.host for rank in moved}
    if len(hosts) > 1:
        note = Note(
            text=f"The ranks ran on {len(hosts)} hosts: their clocks agree only as well as the "
            "hosts' time synchronisation; who arrives last is taken from durations."
        )
        return Trace(ranks=moved, aligned=False, notes=(note,))
    return Trace(ranks=moved, aligned=True)


def _refuse_mixtures(ranks: list[RankTrace]) -> None:
    numbers = [rank.rank for rank in ranks]
    for number in numbers:
        if numbers.count(number) > 1:
            files = ", ".join(rank.source for rank in ranks if rank.rank == number)
            raise ProfileError(
                f"Rank {number} is there twice ({files}): give one trace per rank, named "
                "r<rank>.sqlite or rank<rank>.json"
            )
    formats = {rank.format for rank in ranks}
    if len(formats) > 1:
        raise ProfileError(
            f"Traces of {' and '.join(sorted(formats))} have different clocks and cannot be "
            "mixed: give the ranks of one profiler, and analyse the other apart"
        )
    known = {rank.clock.epoch_ns is None for rank in ranks}
    if len(known) > 1:
        without = ", ".join(r.source for r in ranks if r.clock.epoch_ns is None)
        raise ProfileError(
            f"{without} does not say when its session began in UTC, the other traces do: mixed "
            "clocks cannot be aligned. Export all of them with the same version of the profiler"
        )


def _shifted(rank: RankTrace, base: Clock) -> RankTrace:
    by = (rank.clock.epoch_ns or 0) - (base.epoch_ns or 0)
    if not by:
        return rank
    moved = {
        name: replace(table, start=table.start + by, end=table.end + by)
        for name in ("device", "calls", "ranges", "system", "overhead", "operators")
        if len(table := getattr(rank, name))
    }
    return replace(rank, clock=replace(rank.clock, epoch_ns=base.epoch_ns), **moved)


def extent(rank: RankTrace) -> tuple[int, int]:
    """Return the first and last moment of any event of *rank*."""
    tables = [
        table
        for table in (rank.device, rank.calls, rank.ranges, rank.operators, rank.system)
        if len(table)
    ]
    if not tables:
        raise ProfileError(f"{rank.source}: rank {rank.rank} has no event at all")
    return min(int(t.start[0]) for t in tables), max(int(t.end.max()) for t in tables)


def _refuse_apart(ranks: tuple[RankTrace, ...]) -> None:
    first = extent(ranks[0])
    for rank in ranks[1:]:
        mine = extent(rank)
        if mine[0] >= first[1] or first[0] >= mine[1]:
            apart = max(mine[0] - first[1], first[0] - mine[1]) / 1e9
            raise ProfileError(
                f"{rank.source} (rank {rank.rank}) and {ranks[0].source} (rank {ranks[0].rank}) "
                f"lie {apart:.1f} s apart: they are not from the same run, or their clocks are "
                "wrong. Give the traces of one run, and check time synchronisation"
            )
