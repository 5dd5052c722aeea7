"""Makes probes in a worker process and ends the worker when one of them hangs. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.contract import Fact, Measurement, Problem, decode
from trainer.probes.found import Found, Place
from trainer.probes.registry import PROBES, Entry

FOREIGN_FACT = "foreign_processes"


class Supervisor:
    """Makes probes one after the other; each within its own limit and all within a budget."""

    def __init__(
        self,
        place: Place,
        *,
        budget_s: float,
        entries: Mapping[str, Entry] = PROBES,
        worker: Sequence[str] = (sys.executable, "-m", "trainer.probes.worker"),
    ) -> None:
        """Probe *place*; give up what has not begun when *budget_s* seconds are over."""
        self._place = place
        self._budget_s = budget_s
        self._entries = entries
        self._command = worker
        self._process: subprocess.Popen[bytes] | None = None
        self._foreign = ""

    def run(self, names: Sequence[str]) -> Found:
        """Return what the probes called *names* found, in that order."""
        all_found = Found()
        end = time.monotonic() + self._budget_s
        try:
            for name in names:
                left = end - time.monotonic()
                found = self._one(name, left) if left > 0 else self._given_up(name)
                all_found.facts += found.facts
                all_found.measurements += found.measurements
                all_found.problems += found.problems
                self._notice(found)
        finally:
            self._end()
        return all_found

    def _notice(self, found: Found) -> None:
        busy = [fact for fact in found.facts if fact.name.endswith(FOREIGN_FACT)]
        texts = [f"{fact.name}: {fact.value}" for fact in busy if fact.value != "none"]
        self._foreign = "; ".join([self._foreign, *texts]).strip("; ")

    def _one(self, name: str, left: float) -> Found:
        limit = min(self._entries[name].limit_s, left)
        request = {
            "probe": name,
            "root": str(self._place.root),
            "run_dir": str(self._place.run_dir),
            "data_dir": str(self._place.data_dir),
            "quick": self._place.quick,
            "foreign": self._foreign,
        }
        line = self._ask(json.dumps(request) + "\n", limit)
        if line is None:
            self._end()
            found = Found()
            found.problem(
                name,
                f"no answer within {limit:.0f} s; it was ended",
                "run it alone to see where it hangs: python -m trainer.probes --only " + name,
            )
            return found
        if not line:
            code = self._end()
            found = Found()
            found.problem(name, f"its process ended with code {code} and no answer")
            return found
        return _decoded(json.loads(line))

    def _given_up(self, name: str) -> Found:
        found = Found()
        found.problem(
            name,
            f"not made: the budget of {self._budget_s:.0f} s was used up",
            "raise --budget, or see which probe above took long",
        )
        return found

    def _ask(self, text: str, limit: float) -> bytes | None:
        """Return the answer's line, empty when the worker died, None when it did not answer."""
        process = self._worker()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        try:
            process.stdin.write(text.encode())
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        end, got = time.monotonic() + limit, b""
        descriptor = process.stdout.fileno()
        while not got.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            part = os.read(descriptor, 1 << 16)
            if not part:
                return b""
            got += part
        return got

    def _worker(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                list(self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # its children end with it
                # A node is measured with all its cores, whatever a rank of training would get;
                # libraries read this when they are loaded.
                env=os.environ | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))},
            )
        return self._process

    def _end(self) -> int | None:
        """End the worker and all it started; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # in an uninterruptible call: the kernel keeps it
            return None


def _close(pipe: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _decoded(data: dict[str, Any]) -> Found:
    return Found(
        facts=[decode(Fact, one) for one in data["facts"]],
        measurements=[decode(Measurement, one) for one in data["measurements"]],
        problems=[decode(Problem, one) for one in data["problems"]],
    )
