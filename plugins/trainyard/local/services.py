"""The stack's servers: how each is started, when it is ready, and how all are stopped."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from trainyard.errors import UnavailableError
from trainyard.local.state import StackPaths

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_GRACE_S = 8.0
_STOP_ROUNDS = 5  # what a dying service still spawned is found in the next round


def adopt_orphans() -> None:
    """Make this process the parent of whatever its services leave behind, training runs too.

    Runs live in sessions of their own so that they outlive a worker; without this they would
    also outlive the stack.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(kw_only=True, slots=True)
class Service:
    """One server process."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None


class Services:
    """Starts services, notices when one dies, stops them all."""

    def __init__(self, paths: StackPaths) -> None:
        """Stop first what an earlier stack in the same folder left running."""
        self._paths = paths
        self._running: dict[str, Service] = {}
        stop_leftovers(paths)
        # What already ran under this process belongs to somebody else.
        self._foreign = {child.pid for child in psutil.Process().children()}

    def start(self, service: Service) -> None:
        """Start *service* with its output in logs/<name>.log."""
        log = self._paths.logs / f"{service.name}.log"
        with log.open("ab") as stream:
            service.process = subprocess.Popen(
                service.argv,
                env={**os.environ, **service.env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self._paths.root,
                start_new_session=True,
            )
        self._running[service.name] = service
        self._remember()

    def kill(self, name: str) -> Service:
        """Kill one service and its children with SIGKILL, as a crash would; return it.

        ``start`` accepts what this returns, so that recovery can be tested and rehearsed.
        """
        service = self._running.pop(name)
        if service.process is None:
            raise UnavailableError(f"{name} was never started")
        victim = psutil.Process(service.process.pid)
        for process in [victim, *_children(victim)]:
            _signal(process, signal.SIGKILL)
        service.process.wait(timeout=10)
        return service

    def check(self) -> None:
        """Raise ``UnavailableError`` with the log's tail when a service has died."""
        self._reap_orphans()
        for service in self._running.values():
            code = service.process.poll() if service.process else None
            if code is not None:
                log = self._paths.logs / f"{service.name}.log"
                raise UnavailableError(
                    f"{service.name} stopped with exit code {code}; {log} ends with:\n{tail(log)}"
                )

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until *ready* answers true; raise when a service dies or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{what} did not become ready within {seconds:.0f} s; "
                    f"see the logs in {self._paths.logs}"
                )
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop every service and every process that came from one."""
        for _ in range(_STOP_ROUNDS):
            self._reap_orphans()
            own = self._descendants()
            if not own:
                break
            stop_processes(own)
        for service in self._running.values():
            if service.process:
                service.process.wait(timeout=1)
        self._running.clear()
        self._paths.processes.unlink(missing_ok=True)

    def _descendants(self) -> list[psutil.Process]:
        children = [c for c in psutil.Process().children() if c.pid not in self._foreign]
        return [process for child in children for process in (child, *_children(child))]

    def _reap_orphans(self) -> None:
        kept = {service.process.pid for service in self._running.values() if service.process}
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.pid not in kept | self._foreign and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _remember(self) -> None:
        known = {}
        for service in self._running.values():
            if service.process is not None:
                with suppress(psutil.NoSuchProcess):
                    started = psutil.Process(service.process.pid).create_time()
                    known[service.name] = {"pid": service.process.pid, "started": started}
        self._paths.processes.write_text(json.dumps(known))


def stop_leftovers(paths: StackPaths) -> None:
    """Stop services that a killed stack left behind, told by pid and start time together."""
    if not paths.processes.is_file():
        return
    try:
        known = json.loads(paths.processes.read_text())
    except json.JSONDecodeError:
        known = {}
    found: list[psutil.Process] = []
    for entry in known.values():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["started"]) < 1.0:
                found += [*process.children(recursive=True), process]
    stop_processes(found)
    paths.processes.unlink(missing_ok=True)


def stop_processes(processes: Iterable[psutil.Process]) -> None:
    """End *processes* and their late children: SIGTERM, a grace, SIGKILL."""
    waiting = list(processes)
    for process in waiting:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(waiting, timeout=_GRACE_S)
    late = [child for process in alive for child in _children(process)]
    for process in [*alive, *late]:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs([*alive, *late], timeout=5)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def tail(path: Path, size: int = 2000) -> str:
    """Return the last *size* bytes of a log as text."""
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - size))
        return stream.read().decode(errors="replace")


def answers(url: str) -> bool:
    """Return whether something speaks HTTP at *url*, whatever the status."""
    try:
        httpx.get(url, timeout=2)
    except httpx.HTTPError:
        return False
    return True


def executable(name: str) -> str:
    """Return the path of a command installed beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise UnavailableError(f"{path} is missing; next step: make setup")
    return str(path)
