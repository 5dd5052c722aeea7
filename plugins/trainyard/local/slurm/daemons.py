"""Daemons of a throw-away cluster: started, found again by another process, and stopped.

A daemon is remembered as pid plus start time, so a stale record never hits a stranger. Whatever
a daemon starts carries ``TRAINYARD_SLURM=<state folder>`` in its environment, and jobs carry
``SLURM_CLUSTER_NAME``: that finds what lost its parent, too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from trainyard.errors import UnavailableError

MARK = "TRAINYARD_SLURM"
_GRACE_S = 5.0


class Daemons:
    """The daemons of one state folder."""

    def __init__(self, state: Path, cluster: str) -> None:
        """*cluster* is the unique cluster name that its jobs carry."""
        self._state = state
        self._cluster = cluster
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        """Start *argv* in its own session with output in log/<name>.out, unless it runs."""
        if self.running(name):
            return
        with (self._state / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                [executable(argv[0]), *argv[1:]],
                env={**_bare_environment(), **env, MARK: str(self._state)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._state,
                start_new_session=True,
            )
        self._children[name] = process
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid).create_time()
            record = self._record(name)
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps({"pid": process.pid, "started": started}))
            partial.replace(record)

    def running(self, name: str) -> bool:
        """Whether the daemon called *name* is alive."""
        return self.process(name) is not None

    def process(self, name: str) -> psutil.Process | None:
        """Return the daemon's process, or None when it is gone; a stale record is removed."""
        record = self._record(name)
        try:
            known = json.loads(record.read_text())
            process = psutil.Process(known["pid"])
            alive = (
                abs(process.create_time() - known["started"]) < 1.0
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (FileNotFoundError, psutil.NoSuchProcess, json.JSONDecodeError, KeyError):
            alive = False
        if not alive:
            self._reap(name)
            record.unlink(missing_ok=True)
            return None
        return process

    def names(self) -> list[str]:
        """Names of the daemons that are alive."""
        found = sorted(path.stem for path in (self._state / "run").glob("*.json"))
        return [name for name in found if self.running(name)]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a running daemon; raise ``UnavailableError`` when it is gone."""
        process = self.process(name)
        if process is None:
            raise UnavailableError(f"{name} of cluster {self._cluster} is not running")
        process.send_signal(number)

    def stop(self, name: str, *, kill: bool = False) -> None:
        """End one daemon and wait for it: SIGTERM, a grace, SIGKILL; *kill* skips the first."""
        process = self.process(name)
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a stopped process would not notice SIGTERM
        if not kill:
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(_GRACE_S)
        with suppress(psutil.NoSuchProcess):
            process.kill()
        with suppress(psutil.TimeoutExpired):
            process.wait(_GRACE_S)
        self.process(name)

    def sweep(self) -> list[str]:
        """Kill everything of this cluster that still runs; return the command lines killed."""
        killed = []
        for _ in range(20):
            found = list(self.leftovers())
            if not found:
                break
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    killed.append(" ".join(process.cmdline()) or process.name())
                    process.kill()
            psutil.wait_procs(found, timeout=0.5)
        return killed

    def leftovers(self) -> Iterator[psutil.Process]:
        """Yield live processes that a daemon or a job of this cluster left behind."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and self._is_ours(process):
                    yield process

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        env = process.environ()
        if env.get(MARK) == str(self._state) or env.get("SLURM_CLUSTER_NAME") == self._cluster:
            return True
        # slurmstepd overwrites its environment with its title; its log file gives it away.
        return process.name() == "slurmstepd" and any(
            Path(entry.path).is_relative_to(self._state) for entry in process.open_files()
        )

    def _record(self, name: str) -> Path:
        return self._state / "run" / f"{name}.json"

    def _reap(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_GRACE_S)


def _bare_environment() -> dict[str, str]:
    """Return what daemons need of this process's environment: no secrets reach jobs this way."""
    keep = ("HOME", "USER", "LOGNAME", "LANG")
    path = {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"}
    return {name: os.environ[name] for name in keep if name in os.environ} | path


def executable(name: str) -> str:
    """Return the path of a system program, /usr/sbin included, or raise naming the fix."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise UnavailableError(
            f"{name} is not installed; next step, as root: python -m trainyard.local.slurm install"
        )
    return found


def wait_until(ready: Callable[[], bool], what: str, seconds: float, logs: Path) -> None:
    """Poll *ready*; raise ``UnavailableError`` with the newest log's tail when time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} within {seconds:.0f} s: no.\n{_tails(logs)}")
        time.sleep(0.1)


def _tails(logs: Path) -> str:
    parts = []
    for path in sorted(logs.iterdir(), key=lambda p: p.stat().st_mtime)[-4:]:
        parts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1200:]}")
    return "\n".join(parts)
