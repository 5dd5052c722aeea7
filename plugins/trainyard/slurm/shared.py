"""Whether run folders are seen under the same path where Slurm's commands run."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from trainyard.errors import ConfigurationError
from trainyard.slurm.transport import Transport

_PATIENCE_S = 20.0
_PAUSE_S = 1.0


def check_shared(
    transport: Transport,
    folder: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make sure that *folder* is one and the same here and at the other end of *transport*.

    Journal, exit code, result and logs of a job are files in its run folder: without a common
    file system a job could be submitted and nothing about it be known. A new file is written here
    and must be readable there; network file systems get 20 s for it. Raises
    ``ConfigurationError`` saying what to change, and whatever *transport* raises.
    """
    token = secrets.token_hex(16)
    probe = folder / f".shared-{token[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
    except OSError as error:
        raise ConfigurationError(
            f"runs_dir = {folder}: cannot be written here: {error.strerror}; choose a folder of "
            "the file system that this host shares with the cluster"
        ) from error
    try:
        deadline = clock() + _PATIENCE_S
        while True:
            seen = transport.run(["cat", "--", str(probe)])
            if seen.rc == 0 and seen.stdout == token:
                return
            if clock() >= deadline:
                break
            sleep(_PAUSE_S)
    finally:
        probe.unlink(missing_ok=True)
    raise ConfigurationError(
        f"runs_dir = {folder}: a file written here does not appear under the same path where "
        f"Slurm's commands run ({seen.stderr.strip() or 'other content'}); run folders must be on "
        "a file system shared by the Airflow workers, the triggerers, the login node and the "
        "nodes, mounted under one path"
    )
