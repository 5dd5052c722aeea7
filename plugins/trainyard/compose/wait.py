"""Start the project and watch it until every service is well, with one line of progress."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from trainyard.compose.engine import Compose, Container, docker
from trainyard.errors import UnavailableError

_POLL_S = 1.0
_TAIL = "25"


def start(project: Compose, services: Mapping[str, bool], log: Path, *options: str) -> float:
    """Start *services* and wait until each is well; return the seconds it took.

    Output of Compose goes to *log*. Raises ``UnavailableError`` naming the first service that is
    not well, with the end of its log, when Compose gives up.
    """
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["docker", *project.argv("up", "--detach", "--remove-orphans", *options)]
    with log.open("w") as stream:
        running = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **project.variables}
        )
        line = ProgressLine(sys.stdout)
        try:
            while not _settled(running, project, services, line, began, log):
                time.sleep(_POLL_S)
        finally:
            line.end()
            if running.poll() is None:
                running.terminate()
    return time.monotonic() - began


def _settled(
    running: subprocess.Popen[bytes],
    project: Compose,
    services: Mapping[str, bool],
    line: ProgressLine,
    began: float,
    log: Path,
) -> bool:
    code = running.poll()
    try:
        found = project.containers()
    except UnavailableError:
        # A container that Compose replaces is gone between its listing and its description.
        if code is not None:
            raise
        return False
    waiting = unwell(found, services)
    line.show(progress(len(services), waiting, time.monotonic() - began))
    if code is not None and code:
        raise UnavailableError(_diagnosis(found, services, log))
    if not waiting and code is not None:
        return True
    if time.monotonic() - began > LONGEST_S:
        raise UnavailableError(_diagnosis(found, services, log))
    return False


LONGEST_S = 420.0
"""Seconds after which a stack that is not well is given up: several times what it takes."""


def unwell(found: Sequence[Container], services: Mapping[str, bool]) -> dict[str, str]:
    """Return what is the matter with each of *services* that is not well yet.

    *services* says of each whether it does one job and ends.
    """
    states = {item.service: item for item in found}
    return {
        name: states[name].told if name in states else "waiting"
        for name in sorted(services)
        if name not in states or not states[name].is_well(once=services[name])
    }


def progress(count: int, waiting: dict[str, str], seconds: float) -> str:
    """Return the line of progress."""
    first = ", ".join(f"{name} {state}" for name, state in list(waiting.items())[:3])
    more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""  # noqa: PLR2004 - shown
    text = f"{seconds:4.0f} s  {count - len(waiting)} of {count} services are well"
    return text + (f"; {first}{more}" if waiting else "")


class ProgressLine:
    """One line that is written over and over in a terminal, and once per change elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*."""
        self._stream = stream
        self._last = ""

    def show(self, text: str) -> None:
        """Show *text*; without a terminal only when what follows the time has changed."""
        if self._stream.isatty():
            self._stream.write(f"\r\033[K{text[:150]}")
            self._last = text
        elif text.partition(" s ")[2] != self._last.partition(" s ")[2]:
            self._stream.write(text + "\n")
            self._last = text
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._last and self._stream.isatty():
            self._stream.write("\n")


_NEW_LINE = "\n"


def _blame(name: str, state: str, last_words: Sequence[str]) -> int:
    """Return 0 for whom Compose names, 1 for who ended or is ill, 2 for the rest, 3 who waits."""
    if any(name in line for line in last_words):
        return 0
    if state.startswith("exited") or state in {"unhealthy", "restarting"}:
        return 1
    return 3 if state in {"waiting", "created"} else 2


def _diagnosis(found: Sequence[Container], services: Mapping[str, bool], log: Path) -> str:
    states = {item.service: item for item in found}
    waiting = unwell(found, services)
    words = log.read_text().strip().splitlines()
    worst = sorted(waiting, key=lambda name: (_blame(name, waiting[name], words[-1:]), name))
    text = "the stack did not come up: " + ", ".join(f"{n} {waiting[n]}" for n in worst[:6])
    text += f"\nCompose says at the end:\n{_NEW_LINE.join(words[-3:])[-1500:]}"
    if worst and worst[0] in states:
        name = states[worst[0]].name
        tail = subprocess.run(
            ["docker", "logs", "--tail", _TAIL, name], capture_output=True, text=True, check=False
        )
        text += f"\n{worst[0]} says at the end:\n{(tail.stdout + tail.stderr).strip()[-3000:]}"
        reason = docker("inspect", "--format", "{{json .State}}", name).strip()
        text += f"\nstate: {reason[:600]}"
    return f"{text}\nNext step: make logs SERVICE={worst[0] if worst else 'NAME'}"
