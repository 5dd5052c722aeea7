"""Which files of a run go to the tracking server: the small ones a person opens first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.contract import dumps
from trainyard.paths import RunPaths

if TYPE_CHECKING:
    from trainyard.store import RunRow

LARGEST_BYTES = 8 * 2**20
TAIL_BYTES = 64 * 2**10


def artifacts_of(row: RunRow, folder: Path | None) -> Iterator[tuple[str, bytes | Path]]:
    """Yield name and content of every artifact of *row*; everything else is in the object store.

    The spec comes from the row, and without a folder the result and the log's tail too. A file
    above 8 MiB is left out, of a log only the last 64 KiB go.
    """
    yield "spec.json", dumps(row.spec).encode()
    if folder is None or not folder.is_dir():
        if row.result is not None:
            yield "result.json", dumps(row.result).encode()
        if row.log_tail:
            yield "log.tail.log", row.log_tail.encode()
        return
    paths = RunPaths(root=folder.parent, run_id=folder.name)
    for path in (paths.result, paths.epochs_csv, paths.script):
        if path.is_file() and path.stat().st_size <= LARGEST_BYTES:
            yield path.name, path
    for path in (paths.stdout, paths.stderr):
        if path.is_file() and path.stat().st_size:
            yield f"{path.stem}.tail.log", _tail(path)


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        return stream.read()
