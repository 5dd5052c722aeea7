"""Processes of this host as Linux shows them under /proc: identity that survives pid reuse."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "TRAINYARD_RUN_DIR"
"""Environment variable that every process of a run inherits; torchrun gives each rank a session of
its own, so neither process group nor parent finds them all."""

_PROC = Path("/proc")
_ENDED = frozenset("ZX")


@dataclass(kw_only=True, slots=True, frozen=True)
class ProcessIdentity:
    """One process, told apart from a later one with the same pid, on whichever host."""

    pid: int
    """Process id, which is also the id of its session."""
    start_ticks: int
    """Kernel clock ticks from boot to its start (field 22 of /proc/PID/stat)."""
    boot_id: str
    """The kernel's random id of this boot."""
    host: str
    """Host name; in a container the container's."""
    started_at: float
    """Seconds since 1970 UTC."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Stat:
    """The fields of /proc/PID/stat that matter here."""

    state: str
    session: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """A zombie has ended: only its parent has not looked yet."""
        return self.state not in _ENDED


def boot_id() -> str:
    """Return the id of this boot, or an empty string where the kernel hides it."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def stat(pid: int) -> Stat | None:
    """Return the process called *pid* now, or None."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def identify(pid: int, started_at: float) -> ProcessIdentity | None:
    """Return the identity of the living process *pid*, or None when it has gone."""
    found = stat(pid)
    if found is None or not found.alive:
        return None
    return ProcessIdentity(
        pid=pid,
        start_ticks=found.start_ticks,
        boot_id=boot_id(),
        host=socket.gethostname(),
        started_at=started_at,
    )


def is_alive(identity: ProcessIdentity) -> bool:
    """Say whether this very process still runs; *identity* must be of this host."""
    if identity.boot_id != boot_id():
        return False
    found = stat(identity.pid)
    return found is not None and found.alive and found.start_ticks == identity.start_ticks


def members(mark: str, identity: ProcessIdentity | None) -> dict[int, int]:
    """Return the living processes of a run as pid -> start tick: those that carry *mark*, and
    those of its session. Never this process itself.
    """
    session = _session_of(identity)
    return {
        pid: found.start_ticks
        for pid, found in _processes()
        if pid != os.getpid() and found.alive and (found.session == session or _carries(pid, mark))
    }


def _session_of(identity: ProcessIdentity | None) -> int | None:
    """Return the run's session id, unless another process has taken over its number."""
    if identity is None or identity.boot_id != boot_id():
        return None
    leader = stat(identity.pid)
    reused = leader is not None and leader.start_ticks != identity.start_ticks
    return None if reused else identity.pid


def _processes() -> Iterator[tuple[int, Stat]]:
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and (found := stat(int(entry.name))):
            yield int(entry.name), found


def _carries(pid: int, mark: str) -> bool:
    try:
        variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{MARK}={mark}".encode() in variables


def send(pid: int, start_ticks: int, number: signal.Signals) -> None:
    """Signal the process *pid* that started at *start_ticks*; nobody else, even if it has gone.

    The descriptor pins the process, so that its number cannot pass to another one in between.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        found = stat(pid)
        if found is not None and found.start_ticks == start_ticks:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
