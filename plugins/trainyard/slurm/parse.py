"""Strict readers of what Slurm's commands print. Whatever does not fit is an error, never "none".

Rows carry an end mark (U+001E) and fields a separator (U+001F) that no job name of ours and hardly
any foreign one contains, so that a row cut in the middle is noticed and a newline in somebody's
job comment does no harm. Times are asked for as seconds since 1970 (``SLURM_TIME_FORMAT=%s``),
which no time zone and no summer time changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from trainyard.slurm.errors import GarbageOutputError
from trainyard.slurm.identity import JobId
from trainyard.slurm.records import Accounting, JobRecord, Node, Partition, Source
from trainyard.slurm.states import parse_state

Row = TypeVar("Row")
FIELD = "\x1f"
ROW = "\x1e"
_NOTHING = frozenset({"", "N/A", "(null)", "None", "none", "Unknown", "NONE", "n/a", "n/s"})

SQUEUE_FORMAT = FIELD.join(
    ("%i", "%T", "%V", "%S", "%e", "%N", "%P", "%q", "%u", "%r", "%j", "%k", ROW)
)
"""``squeue --format``: letters that mean the same from 20.11 to 25.05; see squeue(1)."""
_SQUEUE_WIDTH = 13

SACCT_FIELDS: tuple[str, ...] = ("JobID", "State", "ExitCode", "Submit", "Start", "End")
SACCT_FIELDS += ("NodeList", "Partition", "QOS", "User", "JobName")
"""``sacct --format`` for records: fields that every version since 20.11 has."""
USAGE_FIELDS: tuple[str, ...] = ("JobID", "State", "Submit", "ElapsedRaw", "CPUTimeRAW")
USAGE_FIELDS += ("TotalCPU", "MaxRSS", "ConsumedEnergyRaw", "AllocTRES", "NodeList", "JobName")
"""``sacct --format`` for what a job used, its steps included."""


def squeue(text: str) -> list[JobRecord]:
    """Return the rows of ``squeue --noheader --format SQUEUE_FORMAT``."""
    return [_squeue_row(row) for row in _rows(text, _SQUEUE_WIDTH, "squeue")]


def _rows(text: str, width: int, command: str) -> list[list[str]]:
    *rows, rest = text.split(ROW)
    if rest.strip():
        raise _garbage(command, rest, "a row without its end mark: the output was cut")
    found = [row.lstrip("\n").split(FIELD) for row in rows]
    for row in found:
        if len(row) != width:
            raise _garbage(command, FIELD.join(row), f"{len(row)} fields instead of {width}")
    return found


def _squeue_row(row: Sequence[str]) -> JobRecord:
    state, cancelled_by = parse_state(row[1])
    return JobRecord(
        source=Source.SQUEUE,
        job_id=JobId.parse(row[0]),
        name=row[10],
        state=state,
        reason=_text(row[9]),
        submitted=_required_time(row[2], "squeue"),
        started=_time(row[3], "squeue"),
        ended=_time(row[4], "squeue"),
        nodes=_text(row[5]),
        partition=_text(row[6]),
        qos=_text(row[7]),
        user=row[8],
        comment=_text(row[11]),
        cancelled_by=cancelled_by,
    )


def sacct(text: str) -> list[JobRecord]:
    """Return the rows of ``sacct --parsable --delimiter FIELD --format SACCT_FIELDS``."""
    return [_sacct_row(row) for row in _sacct_rows(text, len(SACCT_FIELDS))]


def _sacct_rows(text: str, width: int) -> list[list[str]]:
    # --parsable ends each row with a delimiter too: a cut row is noticed by its missing end.
    *cells, rest = text.split(FIELD)
    if rest.strip() or len(cells) % width:
        raise _garbage("sacct", text[-200:], f"not rows of {width} fields with their end marks")
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return [[row[0].lstrip("\n"), *row[1:]] for row in rows]


def _sacct_row(row: Sequence[str]) -> JobRecord:
    state, cancelled_by = parse_state(row[1])
    code, number = _exit_code(row[2], "sacct")
    return JobRecord(
        source=Source.SACCT,
        job_id=JobId.parse(row[0]),
        name=row[10],
        state=state,
        submitted=_required_time(row[3], "sacct"),
        started=_time(row[4], "sacct"),
        ended=_time(row[5], "sacct"),
        nodes=_text(row[6]) if row[6] != "None assigned" else "",
        partition=_text(row[7]),
        qos=_text(row[8]),
        user=row[9],
        exit_code=code,
        exit_signal=number,
        cancelled_by=cancelled_by,
    )


_KEY = re.compile(r"(?:^| )([A-Za-z][A-Za-z/:_]*)=")


def pairs(line: str) -> dict[str, str]:
    """Return the ``Key=value`` pairs of one ``scontrol --oneliner`` line; the first of each wins.

    Values may hold spaces: each goes on to the next key. A job name that imitates later keys can
    only damage its own record.
    """
    found = list(_KEY.finditer(line))
    ends = [match.start() for match in found[1:]] + [len(line)]
    values: dict[str, str] = {}
    for match, end in zip(found, ends, strict=True):
        values.setdefault(match[1], line[match.end() : end].strip())
    return values


_JOB = re.compile(r"^JobId=\d+ (?:ArrayJobId|HetJobId|JobName)=", re.MULTILINE)


def show_job(text: str) -> list[JobRecord]:
    """Return the jobs of ``scontrol --oneliner show job ID``: one, or all parts of the job."""
    if not text.strip():
        return []
    if not _JOB.match(text):
        raise _garbage("scontrol show job", text, "no JobId at its beginning")
    starts = [match.start() for match in _JOB.finditer(text)]
    ends = [*starts[1:], len(text)]
    return [
        _reading("scontrol show job", text[start:end].rstrip("\n"), _shown_job)
        for start, end in zip(starts, ends, strict=True)
    ]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _reading(command: str, line: str, read: Callable[[dict[str, str]], Row]) -> Row:
    try:
        return read(pairs(line))
    except (KeyError, ValueError) as error:
        raise _garbage(command, line, f"missing or unreadable: {error}") from error


def _shown_job(values: dict[str, str]) -> JobRecord:
    state, cancelled_by = parse_state(values["JobState"])
    code, number = _exit_code(values["ExitCode"], "scontrol")
    waiting = state == "PENDING"
    return JobRecord(
        source=Source.SCONTROL,
        job_id=_shown_id(values),
        name=values["JobName"],
        state=state,
        reason=_text(values["Reason"]),
        submitted=_required_time(values["SubmitTime"], "scontrol"),
        started=_time(values["StartTime"], "scontrol"),
        ended=_time(values["EndTime"], "scontrol"),
        nodes=_text(values.get("NodeList", "")),
        partition=_text(values.get("Partition", "")),
        qos=_text(values.get("QOS", "")),
        user=values["UserId"].split("(")[0],
        comment=_text(values.get("Comment", "")),
        restarts=int(values["Restarts"]),
        exit_code=None if waiting else code,
        exit_signal=None if waiting else number,
        requeue=values["Requeue"] == "1",
        cancelled_by=cancelled_by,
    )


def _shown_id(values: dict[str, str]) -> JobId:
    if "ArrayJobId" in values:
        task = values["ArrayTaskId"]
        return JobId.parse(f"{values['ArrayJobId']}_{task if task.isdigit() else '[' + task + ']'}")
    if "HetJobId" in values:
        return JobId.parse(f"{values['HetJobId']}+{values['HetJobOffset']}")
    return JobId.parse(values["JobId"])


def show_partitions(text: str) -> list[Partition]:
    """Return the partitions of ``scontrol --oneliner show partition``."""
    return [_reading("scontrol show partition", line, _partition) for line in _lines(text)]


def _partition(values: dict[str, str]) -> Partition:
    nodes = values["MaxNodes"]
    return Partition(
        name=values["PartitionName"],
        default=values["Default"] == "YES",
        up=values["State"] == "UP",
        max_time_s=duration_s(values["MaxTime"]),
        max_nodes=None if nodes == "UNLIMITED" else int(nodes),
        total_nodes=int(values["TotalNodes"]),
        preempt_mode=values.get("PreemptMode", "OFF"),
    )


def show_config(text: str) -> dict[str, str]:
    """Return ``scontrol show config`` by key; version and cluster name must be among them."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and key.strip():
            values.setdefault(key.strip(), value.strip())
    for key in ("SLURM_VERSION", "ClusterName", "MinJobAge"):
        if key not in values:
            raise _garbage("scontrol show config", text, f"no {key} in it")
    return values


NODE_FORMAT = FIELD.join(("%N", "%T", "%E", ROW))
"""``sinfo --Node --format``: name, state, reason."""


def sinfo_nodes(text: str) -> list[Node]:
    """Return the nodes of ``sinfo --noheader --Node --format NODE_FORMAT``, each once."""
    rows = {row[0]: row for row in _rows(text, 4, "sinfo")}
    return [Node(name=row[0], state=row[1], reason=_text(row[2])) for row in rows.values()]


def usage(text: str) -> list[Accounting]:
    """Return what each job used, from sacct rows of jobs and their steps (USAGE_FIELDS)."""
    from trainyard.slurm.usage import join_steps

    return join_steps(_sacct_rows(text, len(USAGE_FIELDS)))


def submitted(text: str) -> tuple[int, str]:
    """Return job id and cluster (or empty) of ``sbatch --parsable``.

    A site's wrapper may print around it; exactly one line must be an id.
    """
    found = [re.fullmatch(r"(\d+)(?:;([\w.-]+))?", line.strip()) for line in text.splitlines()]
    ids = [match for match in found if match]
    if len(ids) != 1:
        raise _garbage("sbatch --parsable", text, f"{len(ids)} lines with a job id instead of 1")
    return int(ids[0][1]), ids[0][2] or ""


def duration_s(text: str) -> int | None:
    """Return the seconds of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for no limit."""
    if text in _NOTHING or text in {"UNLIMITED", "INFINITE"}:
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text)
    if not match:
        raise ValueError(f"{text!r} is no duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _text(value: str) -> str:
    return "" if value in _NOTHING else value


def _time(value: str, command: str) -> int | None:
    if value in _NOTHING:
        return None
    if not re.fullmatch(r"\d{1,12}", value):
        raise _garbage(command, value, "not a time in seconds since 1970 (SLURM_TIME_FORMAT=%s)")
    return int(value)


def _required_time(value: str, command: str) -> int:
    time = _time(value, command)
    if time is None:
        raise _garbage(command, value, "a job without submit time")
    return time


def _exit_code(value: str, command: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", value)
    if not match:
        raise _garbage(command, value, "not an exit code such as 0:0")
    return int(match[1]), int(match[2])


def _garbage(command: str, text: str, why: str) -> GarbageOutputError:
    return GarbageOutputError(
        f"{command} printed {text[:200]!r}: {why}; run the command by hand where Trainyard runs "
        "it: a wrapper, an alias or an unsupported Slurm version (20.11 to 25.05) changes it"
    )
