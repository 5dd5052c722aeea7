"""How a failing run still yields a record, whoever of its ranks dies and however.

Every rank that fails writes ``failures/rank-<r>.json`` with its reason and phase, and says whether
the reason is a cause or only the loss of another rank. Then rank 0 writes result.json from all of
them: causes first, silent ranks by number (a killed process leaves no words). Where rank 0 itself
is gone, the lowest of the others to get there writes it: linking a file is exclusive.

SIGTERM (a cancelled run, a time limit, torchrun ending the others after a death) can arrive while
the main thread waits inside a collective, where no Python handler runs. A thread therefore reads
the interpreter's wake-up pipe, which the signal reaches at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import Phase, dumps
from trainer.failures import describe, is_consequence
from trainer.files import write_atomic, write_exclusive
from trainer.journal import Journal
from trainer.load import process_age

PATIENCE_S = 2.0
"""How long a rank waits for the words of the others: they notice a death within milliseconds."""
_POLL_S = 0.02


@dataclass(kw_only=True, slots=True, frozen=True)
class Words:
    """Why one rank ended."""

    rank: int
    phase: Phase
    reason: str
    cause: bool
    """The rank failed by itself; false: it only lost another rank or was told to stop."""


class LastWords:
    """Writes the failed result exactly once per process, from the main thread or the watcher."""

    def __init__(self, journal: Journal) -> None:
        """Speak for the rank of *journal*; forget what an earlier run of this rank left."""
        self._journal = journal
        self._folder = journal.run_dir / "failures"
        self._begun = threading.Lock()
        self._path(journal.place.rank).unlink(missing_ok=True)
        if journal.place.first and self._folder.is_dir():
            for stale in self._folder.glob("rank-*.json"):
                if _started_before(stale):
                    stale.unlink(missing_ok=True)

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.json"

    def watch(self) -> None:
        """Answer SIGTERM from now on: record it and leave with exit code 1."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGTERM, lambda *_: None)  # without one, the default would kill
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reader,), daemon=True).start()

    def _wait(self, reader: int) -> None:
        while True:
            if signal.SIGTERM in os.read(reader, 64):
                self.speak(
                    "stopped by SIGTERM: cancelled, out of time, or another rank died",
                    cause=False,
                )
                os._exit(1)

    def fail(self, error: BaseException) -> None:
        """Record *error* as the reason of this rank."""
        self.speak(describe(error), cause=not is_consequence(error))

    def speak(self, reason: str, *, cause: bool) -> None:
        """Record *reason*; the first call of a process counts, a second one waits for it."""
        if not self._begun.acquire(blocking=False):
            time.sleep(PATIENCE_S * 2)  # the main thread is already writing and will exit
            return
        journal = self._journal
        mine = Words(rank=journal.place.rank, phase=journal.phase, reason=reason, cause=cause)
        print(f"trainer: rank {mine.rank}: {reason}", file=sys.stderr, flush=True)  # noqa: T201
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomic(self._path(mine.rank), dumps(mine).encode())
            self._conclude(mine)
        except OSError as error:  # full disk: the exit code and standard error must do
            print(f"trainer: no result.json: {error}", file=sys.stderr)  # noqa: T201

    def _conclude(self, mine: Words) -> None:
        journal = self._journal
        everyone = self._listen(mine)
        result = journal.failed(*summary(everyone, journal.place.world))
        if journal.place.first:
            journal.write_result(result)
            return
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if journal.result_path.exists():
                return
            time.sleep(_POLL_S)
        write_exclusive(journal.result_path, dumps(result).encode())

    def _listen(self, mine: Words) -> list[Words]:
        """Return the words of all ranks that speak in time; a cause needs no waiting."""
        deadline = time.monotonic() + (0.0 if mine.cause else PATIENCE_S)
        while True:
            heard = [mine, *self._others(mine.rank)]
            complete = len(heard) == self._journal.place.world
            if complete or any(words.cause for words in heard) or time.monotonic() > deadline:
                return heard
            time.sleep(_POLL_S)

    def _others(self, me: int) -> list[Words]:
        heard = []
        for rank in range(self._journal.place.world):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if rank != me:
                    said = json.loads(self._path(rank).read_text())
                    heard.append(Words(**said | {"phase": Phase(said["phase"])}))
        return heard


def summary(heard: list[Words], world: int) -> tuple[str, Phase]:
    """Return the reason and phase of a run whose ranks said *heard*."""
    ranked = sorted(heard, key=lambda words: (not words.cause, words.rank))
    first = ranked[0]
    if world == 1:
        return first.reason, first.phase
    silent = sorted(set(range(world)) - {words.rank for words in heard})
    parts = []
    if silent and not first.cause:
        ranks = ", ".join(str(rank) for rank in silent)
        parts.append(f"rank {ranks} ended without a word (killed?)")
    parts.append(f"rank {first.rank}: {first.reason}")
    return "; ".join(parts), first.phase


def _started_before(path: Path) -> bool:
    """Whether *path* is older than this process: left by an earlier run in the folder."""
    try:
        return path.stat().st_mtime < time.time() - process_age()
    except OSError:
        return False
