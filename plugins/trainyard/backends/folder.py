"""The run folder as evidence: what every backend reads and writes there, in single steps."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import ContractError, RunSpec, dumps, loads
from trainyard.backends.identity import Claim
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.launch import Launch
from trainyard.paths import RunPaths


@dataclass(kw_only=True, slots=True, frozen=True)
class Cancelled:
    """Who wanted a run to end; the first request counts."""

    why: str
    """The reason in words."""
    at: float
    """Seconds since 1970 UTC."""


def write_once(path: Path, text: str) -> None:
    """Write *path* so that a reader sees the whole text or no file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


@contextlib.contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it when its holder dies."""
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_launch(paths: RunPaths, launch: Launch, spec: RunSpec) -> None:
    """Put spec.json and launch.sh into a new run folder."""
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    write_once(paths.spec, dumps(spec))
    write_once(paths.script, launch.script)
    paths.script.chmod(0o755)


@contextlib.contextmanager
def told(paths: RunPaths) -> Iterator[None]:
    """Raise what the file system refuses as ``UnavailableError`` that names the run folder."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"run folder {paths.run_dir}: {error.strerror or error}; space and permissions there "
            "are what verify_environment checks"
        ) from error


def check_same_spec(paths: RunPaths, spec: RunSpec) -> None:
    """Raise ``ConfigurationError`` when the run folder holds another spec."""
    try:
        text = paths.spec.read_text()
    except FileNotFoundError:
        return
    try:
        found = loads(RunSpec, text, str(paths.spec))
    except ContractError as error:
        raise ConfigurationError(f"{error}; set the folder aside and start again") from error
    if found != spec:
        raise ConfigurationError(
            f"run {paths.run_id} was started with spec {found.spec_id}, not {spec.spec_id}: "
            "one run id names one spec; trigger a new DAG run for other parameters"
        )


def exit_code(paths: RunPaths) -> tuple[bool, int | None]:
    """Return whether the wrapper reported an end, and the code (None when it is no number)."""
    try:
        text = paths.exit_code.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return False, None
    return True, int(text) if text.isdigit() else None


def cancelled(paths: RunPaths) -> Cancelled | None:
    """Return the request to end the run, if there was one."""
    try:
        return loads(Cancelled, paths.cancelled.read_text(), str(paths.cancelled))
    except FileNotFoundError:
        return None
    except ContractError:  # its writer died half-way: the request still counts
        return Cancelled(why="unknown", at=0.0)


def claim_of(paths: RunPaths) -> Claim | None:
    """Return which try waits for the run, or None when nobody left a readable claim."""
    try:
        return loads(Claim, paths.claim.read_text(), str(paths.claim))
    except (FileNotFoundError, ContractError):
        return None


def request_end(paths: RunPaths, why: str, *, asked_by: int | None = None) -> bool:
    """Record that the run shall end; return False when *asked_by* is a try that lost the run.

    The first request counts, a second one changes nothing.
    """
    text = json.dumps({"why": why, "at": time.time()})
    with locked(paths), contextlib.suppress(FileExistsError):
        claim = claim_of(paths)
        if asked_by is not None and claim is not None and claim.task.try_number != asked_by:
            return False
        descriptor = os.open(paths.cancelled, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
    return True


def attempt_to_run(paths: RunPaths) -> RunPaths:
    """Return the attempt a task should run or re-attach to.

    That is the newest one, unless its outcome is recorded already: then somebody cleared the task,
    or a lost run is tried again, and the next attempt gets a folder and a row of its own. Nothing
    of an earlier attempt is ever moved or overwritten.
    """
    number = newest_attempt(paths)
    newest = paths.attempt(number)
    return paths.attempt(number + 1) if newest.recorded.exists() else newest


def newest_attempt(paths: RunPaths) -> int:
    """Return the number of the newest attempt of a run, 1 when there is none yet."""
    number = 1
    while paths.attempt(number + 1).run_dir.exists():
        number += 1
    return number
