"""What the job itself leaves in its run folder: who it is, and the exit code of its command.

Both files are written by the job's wrapper in one step (temporary file, then rename). They are
the second source beside Slurm's records, and they stay when those are forgotten.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LARGEST = 65536
_LARGEST_CODE = 255


@dataclass(kw_only=True, slots=True, frozen=True)
class Breadcrumb:
    """Which job runs, or ran last, in a run folder: ``job.json``."""

    job_id: int
    """Id of the job, of the array, or of the first het component."""
    cluster: str = ""
    """Cluster name; empty when the wrapper could not tell."""
    restarts: int = 0
    """SLURM_RESTART_COUNT of the attempt."""
    name: str = ""
    """Job name; the key."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ExitFile:
    """The exit code a wrapper wrote, and which attempt wrote it as far as can be told."""

    code: int
    """Exit code of the command, 0 to 255."""
    written_ns: int = 0
    """Modification time: tells a new file from the one seen before. Never compared to a clock."""
    job_id: int | None = None
    """Job of the breadcrumb beside it."""
    restarts: int | None = None
    """Attempt of the breadcrumb beside it."""


def read_breadcrumb(path: Path) -> Breadcrumb | None:
    """Return the breadcrumb, or None when there is none that can be read yet."""
    text = _read(path)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return None
    return _breadcrumb(data) if isinstance(data, dict) else None


def _breadcrumb(data: dict[str, Any]) -> Breadcrumb | None:
    try:
        job_id = int(data.get("array_job_id") or data.get("het_job_id") or data["job_id"])
        restarts = int(data.get("restarts") or 0)
    except (KeyError, TypeError, ValueError):
        return None
    return Breadcrumb(
        job_id=job_id,
        cluster=str(data.get("cluster") or ""),
        restarts=restarts,
        name=str(data.get("name") or ""),
    )


def read_exit_file(exit_code: Path, job: Path) -> ExitFile | None:
    """Return the exit code in *exit_code* with the attempt that *job* names, or None.

    What is no number from 0 to 255 counts as "not there yet": the wrapper renames whole files, so
    anything else is a file system that has not caught up.
    """
    text = _read(exit_code)
    if text is None or not re.fullmatch(r"[0-9]{1,3}\s*", text) or int(text) > _LARGEST_CODE:
        return None
    try:
        written = exit_code.stat().st_mtime_ns
    except OSError:
        return None
    crumb = read_breadcrumb(job)
    return ExitFile(
        code=int(text),
        written_ns=written,
        job_id=crumb.job_id if crumb else None,
        restarts=crumb.restarts if crumb else None,
    )


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST).decode(errors="replace")
    except OSError:
        return None
