"""Process backend: a run as a session of plain processes on this host.

The session belongs to nobody: neither the end of the Airflow task that started it, nor a signal to
that task's process group, reaches it. It ends by itself or through ``cancel``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

from trainer.contract import ContractError, RunSpec, dumps, loads
from trainyard.backends import folder, procfs
from trainyard.backends.base import JobUsage, Observation, State
from trainyard.backends.procfs import ProcessIdentity
from trainyard.errors import UnavailableError
from trainyard.launch import Launch
from trainyard.paths import RunPaths

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_")
_POLL_S = 0.05
_KILL_WAIT_S = 2.0


class ProcessBackend:
    """Starts runs with ``setsid`` and recognises them by pid, start time, boot and host."""

    def start(self, launch: Launch, paths: RunPaths, spec: RunSpec) -> Observation:
        """Start the run unless it was started before (see ``Backend.start``)."""
        with folder.told(paths), folder.locked(paths):
            folder.check_same_spec(paths, spec)
            seen = self.observe(paths)
            if seen.state is State.NOT_STARTED:
                folder.write_launch(paths, launch, spec)
                _spawn(paths)
                seen = self.observe(paths)
        return seen

    def observe(self, paths: RunPaths) -> Observation:
        """Return the evidence; the exit-code file is the strongest."""
        identity = _identity(paths)
        if (over := _ended(paths, identity)) is not None:
            return over
        if identity is None:
            return Observation(state=State.NOT_STARTED)
        if identity.host != socket.gethostname():
            return Observation(
                state=State.UNKNOWN,
                started_at=identity.started_at,
                detail=f"runs on host {identity.host}, which this host cannot look into",
            )
        if procfs.is_alive(identity):
            return Observation(
                state=State.RUNNING,
                started_at=identity.started_at,
                detail=f"process {identity.pid} on {identity.host}",
            )
        # It may have written its exit code between the two looks.
        return _ended(paths, identity) or _vanished(paths, identity)

    def cancel(
        self, paths: RunPaths, *, why: str, grace_s: float = 10.0, asked_by: int | None = None
    ) -> Observation:
        """End the run: SIGTERM to all its processes, SIGKILL after *grace_s* seconds."""
        seen = self.observe(paths)
        if seen.state is State.NOT_STARTED or seen.state.is_over:
            return seen
        if not folder.request_end(paths, why, asked_by=asked_by):
            return seen
        if seen.state is State.UNKNOWN:
            raise UnavailableError(
                f"run {paths.run_id} {seen.detail}; end it there: {paths.run_dir}"
            )
        _end_all(paths, _identity(paths), grace_s)
        return self.observe(paths)

    def sweep(self, paths: RunPaths) -> int:
        """End what outlived the run, such as ranks of a torchrun that was killed."""
        return _end_all(paths, _identity(paths), grace_s=1.0)

    def usage(self, paths: RunPaths) -> tuple[JobUsage, ...]:
        """Return nothing: plain processes have no accounting."""
        return ()


def _ended(paths: RunPaths, identity: ProcessIdentity | None) -> Observation | None:
    reported, code = folder.exit_code(paths)
    if not reported:
        return None
    request = folder.cancelled(paths)
    # What was asked to end may end with 0; only a run that had its result by then has completed.
    by_request = request is not None and not (code == 0 and paths.result.exists())
    return Observation(
        state=State.CANCELLED if by_request else State.EXITED,
        exit_code=code,
        started_at=identity.started_at if identity else None,
        detail=f"cancelled: {request.why}" if request and by_request else f"exit code {code}",
    )


def _vanished(paths: RunPaths, identity: ProcessIdentity) -> Observation:
    if request := folder.cancelled(paths):
        return Observation(
            state=State.CANCELLED,
            started_at=identity.started_at,
            detail=f"cancelled: {request.why}",
        )
    rebooted = identity.boot_id != procfs.boot_id()
    return Observation(
        state=State.LOST,
        started_at=identity.started_at,
        detail=(
            f"host {identity.host} restarted"
            if rebooted
            else f"process {identity.pid} is gone and left no exit code: it was killed"
        ),
    )


def _identity(paths: RunPaths) -> ProcessIdentity | None:
    try:
        return loads(ProcessIdentity, paths.process.read_text(), str(paths.process))
    except FileNotFoundError:
        return None
    except ContractError as error:
        raise UnavailableError(f"{error}; the run cannot be recognised") from error


def _spawn(paths: RunPaths) -> None:
    """Start the wrapper so that it exists exactly if process.json names it.

    The wrapper waits until its identity is on disk. When this process dies before that, the pipe
    closes and the wrapper ends without having run anything.
    """
    said, says = os.pipe()
    waits, go = os.pipe()
    # bash duplicates and closes descriptors by number; both are inherited with their numbers.
    gate = (
        f"echo $$ >&{says}; exec {says}>&-; read -r word <&{waits}; exec {waits}<&-; "
        f'[ "$word" = go ] || exit 75; exec bash "$0"'
    )
    try:
        with paths.wrapper_log.open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", "bash", "-c", gate, str(paths.script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=paths.run_dir,
                env=_environment(paths),
                pass_fds=(says, waits),
                check=True,
            )
        os.close(says)
        says = -1
        _let_go(paths, os.read(said, 32), go)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"cannot start run {paths.run_id}: {error}") from error
    finally:
        for descriptor in (said, says, waits, go):
            if descriptor >= 0:
                os.close(descriptor)


def _let_go(paths: RunPaths, pid: bytes, go: int) -> None:
    identity = procfs.identify(int(pid), time.time()) if pid.strip().isdigit() else None
    if identity is None:
        raise UnavailableError(f"run {paths.run_id} ended before it began; see {paths.wrapper_log}")
    folder.write_once(paths.process, dumps(identity))
    os.write(go, b"go\n")


def _environment(paths: RunPaths) -> dict[str, str]:
    """Return what a login would give, and the mark: nothing of Airflow's, above all no secret."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return kept | {procfs.MARK: str(paths.run_dir)}


def _end_all(paths: RunPaths, identity: ProcessIdentity | None, grace_s: float) -> int:
    """Signal every process of the run until none is left; return how many there were at first."""
    found = living = procfs.members(str(paths.run_dir), identity)
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
        deadline = time.monotonic() + wait_s
        signalled: set[int] = set()
        while living and time.monotonic() < deadline:
            for pid in living.keys() - signalled:  # also those that came up meanwhile
                procfs.send(pid, living[pid], number)
                signalled.add(pid)
            time.sleep(_POLL_S)
            living = procfs.members(str(paths.run_dir), identity)
    return len(found)
