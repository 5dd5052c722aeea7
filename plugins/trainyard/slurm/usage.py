"""What a job used: sacct prints it in pieces, one row for the job and one for each step."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainyard.slurm.errors import GarbageOutputError
from trainyard.slurm.identity import JobId
from trainyard.slurm.records import Accounting
from trainyard.slurm.states import parse_state

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}


def join_steps(rows: Sequence[Sequence[str]]) -> list[Accounting]:
    """Return one record for each job row, with the largest memory and energy of its steps.

    Columns: ``parse.USAGE_FIELDS``. A step belongs to the last job row with its id before it: so
    sacct orders them, also when ``--duplicates`` shows several attempts.
    """
    jobs: list[tuple[Sequence[str], list[Sequence[str]]]] = []
    for row in rows:
        job_id = JobId.parse(row[0])
        if not job_id.step:
            jobs.append((row, []))
        elif jobs:
            jobs[-1][1].append(row)
        else:
            raise GarbageOutputError(f"sacct printed step {row[0]!r} without its job")
    return [_joined(row, steps) for row, steps in jobs]


def _joined(row: Sequence[str], steps: Sequence[Sequence[str]]) -> Accounting:
    try:
        return _accounting(row, steps)
    except ValueError as error:
        raise GarbageOutputError(f"sacct printed {list(row)!r}: {error}") from error


def _accounting(row: Sequence[str], steps: Sequence[Sequence[str]]) -> Accounting:
    elapsed = _whole(row[3])
    gpus = re.search(r"gres/gpu=(\d+)", row[8])
    rss = [size for step in (row, *steps) if (size := size_bytes(step[6])) is not None]
    energy = [joules for step in (row, *steps) if (joules := _whole(step[7]))]
    return Accounting(
        job_id=JobId.parse(row[0]),
        name=row[10],
        state=parse_state(row[1])[0],
        submitted=int(row[2]),
        elapsed_s=elapsed,
        cpu_s=_whole(row[4]),
        cpu_used_s=_used(row[5]),
        gpu_s=int(gpus[1]) * elapsed if gpus and elapsed is not None else None,
        max_rss_bytes=max(rss, default=None),
        energy_j=max(energy, default=None),
        nodes="" if row[9] == "None assigned" else row[9],
        tres=row[8],
    )


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _used(text: str) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        raise ValueError(f"TotalCPU = {text!r} is no duration")
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])


def size_bytes(text: str) -> int | None:
    """Return the bytes of ``1536K`` or ``2.5G`` (powers of 1024); None for an empty text."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)n?c?", text)
    if not match:
        raise ValueError(f"MaxRSS = {text!r} is no size")
    return round(float(match[1]) * _UNITS[match[2]])
