"""Readers: the only part of the package that touches files. Each returns ``RankTrace`` records."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from trainyard.errors import ProfileError
from trainyard.profile.clocks import align

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainyard.profile.model import RankTrace, Trace

_RANK = re.compile(r"(?:^|[^a-z0-9])r(?:ank)?[-_.]?(\d+)(?![a-z0-9])", re.IGNORECASE)


def read_trace(paths: Sequence[Path]) -> Trace:
    """Return the job whose ranks are in *paths*, one profiler for all, clocks aligned.

    The kind of file is found from its first bytes, never from its name. A rank's number comes from
    the trace, else from the file name (``r3.sqlite``, ``rank3.json``), else from the order given.
    Raises ``ProfileError`` naming the file, what is wrong and what to do.
    """
    if not paths:
        raise ProfileError("No trace file: name the files of one run, one per rank")
    ranks: list[RankTrace] = []
    for place, path in enumerate(paths):
        named = rank_in_name(path.name)
        found = read_file(path, place if named is None else named)
        if len(found) > 1:
            # A whole node in one file: its processes follow those of the files before it.
            found = [replace(item, rank=len(ranks) + n) for n, item in enumerate(found)]
        ranks += found
    return align(ranks)


def rank_in_name(name: str) -> int | None:
    """Return the rank that a file name states, or None."""
    found = _RANK.search(name)
    return int(found[1]) if found else None


def read_file(path: Path, rank: int) -> list[RankTrace]:
    """Return the ranks of one trace file; *rank* numbers it where it does not say."""
    from trainyard.profile.readers.columns import HEADER
    from trainyard.profile.readers.nsys_file import read_nsys
    from trainyard.profile.readers.torch_trace import read_torch

    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise ProfileError(f"{path} is empty: the profiler never wrote it. Profile again")
    if head.startswith(HEADER):
        return read_nsys(path, rank)
    if head.startswith(b"\x1f\x8b") or head.lstrip()[:1] in {b"{", b"["}:
        return [read_torch(path, rank)]
    raise ProfileError(f"{path} is no trace: {_hint(path, head)}")


def _hint(path: Path, head: bytes) -> str:
    if path.suffix in {".nsys-rep", ".qdrep", ".qdstrm"}:
        return f"export it first: nsys export --type sqlite -o {path.stem}.sqlite {path.name}"
    if path.suffix == ".ncu-rep":
        return f"convert it (ncu --import {path.name} --csv --page raw) and give it with --ncu"
    if b"Kernel Name" in head or b"==PROF==" in head:
        return "it is a CSV of Nsight Compute, give it with --ncu beside a trace"
    return "give nsys SQLite exports or torch.profiler traces (.json, .json.gz)"
