"""Files in run folders, as the watcher reads them: exit codes, its own notes, tails of logs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.contract import ContractError, dumps, loads
from trainyard.files import write_atomically
from trainyard.paths import RunPaths
from trainyard.slurm.breadcrumbs import ExitFile, read_exit_file
from trainyard.slurm.evidence import Evidence, Target

LOG = logging.getLogger(__name__)
LOG_CHUNK = 65536


class RunFiles(Protocol):
    """Reads and writes what stands in run folders; called off the event loop."""

    def exit_file(self, target: Target) -> ExitFile | None:
        """Return the exit code in the target's run folder, or None."""
        ...

    def load(self, target: Target) -> Evidence | None:
        """Return what an earlier watcher had seen, or None."""
        ...

    def save(self, evidence: Evidence) -> None:
        """Keep *evidence* for the next watcher; losing it costs time, never a verdict."""
        ...


class SharedRunFiles:
    """Run folders on a file system that this host shares with the nodes."""

    def exit_file(self, target: Target) -> ExitFile | None:
        """Return the exit code in the target's run folder, or None."""
        if not target.run_dir:
            return None
        paths = _paths(target)
        return read_exit_file(paths.exit_code, paths.job)

    def load(self, target: Target) -> Evidence | None:
        """Return what an earlier watcher had seen of this very target, or None."""
        if not target.run_dir:
            return None
        path = _paths(target).watch
        try:
            evidence = loads(Evidence, path.read_text(), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ContractError) as error:
            LOG.warning("starting to watch %s anew: %s", target.label, error)
            return None
        known = evidence.target
        same = (known.cluster, known.job_id, known.name, known.task)
        wanted = (target.cluster, target.job_id, target.name, target.task)
        return evidence if same == wanted else None

    def save(self, evidence: Evidence) -> None:
        """Keep *evidence* in the run folder; a full disk is logged and endured."""
        if not evidence.target.run_dir:
            return
        try:
            write_atomically(_paths(evidence.target).watch, dumps(evidence, indent=None) + "\n")
        except OSError as error:
            LOG.warning("cannot keep what was seen of %s: %s", evidence.target.label, error)


def _paths(target: Target) -> RunPaths:
    folder = Path(target.run_dir)
    return RunPaths(root=folder.parent, run_id=folder.name)


@dataclass(kw_only=True, slots=True, frozen=True)
class Tail:
    """A piece of a growing file."""

    text: str
    """What was read; bytes that are no UTF-8 appear as the replacement character."""
    offset: int
    """Byte offset to read from next time."""
    more: bool
    """Whether the file holds more than the limit let through."""
    restarted: bool
    """Whether the file had become shorter, so that reading began anew (a requeue truncates)."""


def read_tail(path: Path, offset: int, *, limit: int = LOG_CHUNK) -> Tail:
    """Return up to *limit* bytes of *path* from byte *offset* on; nothing for a missing file.

    A character cut at the end stays for the next read. Reads ``limit`` bytes at most, whatever the
    size of the file: a job that writes gigabytes cannot fill the watcher's memory.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            restarted = offset > size
            begin = 0 if restarted else offset
            stream.seek(begin)
            data = stream.read(limit)
    except OSError:
        return Tail(text="", offset=offset, more=False, restarted=False)
    whole = data[: len(data) - _cut(data)]
    end = begin + len(whole)
    return Tail(
        text=whole.decode(errors="replace"),
        offset=end,
        more=begin + len(data) < size,
        restarted=restarted,
    )


def _cut(data: bytes) -> int:
    """Return how many bytes at the end begin a UTF-8 character without completing it."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # noqa: PLR2004 - not a byte in the middle of a character
            return back if back < _character_length(byte) else 0
    return 0


def _character_length(first: int) -> int:
    """Return the bytes of the UTF-8 character that begins with *first*; 1 where none does."""
    for begin, end, length in ((0xC2, 0xE0, 2), (0xE0, 0xF0, 3), (0xF0, 0xF5, 4)):
        if begin <= first < end:
            return length
    return 1
