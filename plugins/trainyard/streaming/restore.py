"""The newest checkpoint of a run, from the object store to wherever the run goes on."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.contract import Status
from trainyard.errors import DatasetError, TrainyardError
from trainyard.objectstore import ObjectStore
from trainyard.paths import RunPaths
from trainyard.streaming.ledger import CHECKPOINTS, index_key

if TYPE_CHECKING:
    from trainyard.settings import Settings
    from trainyard.study import StudyRun

LOG = logging.getLogger(__name__)
_NAME = re.compile(r"step-\d{10}\.pt")


def restore(settings: Settings, run_id: str, folder: Path) -> Path | None:
    """Put the newest stored checkpoint of *run_id* into *folder*; None when none is stored.

    It appears whole and verified, by one rename. A damaged or expired one is passed over for the
    one before it. Raises ``UnavailableError`` when the store does not answer or the disk is full.
    """
    store = ObjectStore(settings)
    listed = _listed(store.get_json(index_key(run_id)))
    for name, size_bytes, sha256 in sorted(listed, reverse=True):
        key, draft = f"{CHECKPOINTS}/{run_id}/{name}", folder / f".{name}.partial"
        if not store.exists(key):
            continue
        try:
            store.get_to_file(key, draft, size_bytes=size_bytes, sha256=sha256)
        except DatasetError as error:
            LOG.warning("%s; trying the checkpoint before it", error)
            draft.unlink(missing_ok=True)
            continue
        draft.replace(folder / name)
        return folder / name
    return None


def _listed(document: Any) -> list[tuple[str, int, str]]:
    """Return (name, bytes, SHA-256) of what the index lists; anything else in it is passed over."""
    found = document.get("checkpoints") if isinstance(document, dict) else None
    listed = []
    for one in found if isinstance(found, list) else []:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            entry = (str(one["name"]), int(one["size_bytes"]), str(one["sha256"]))
            if _NAME.fullmatch(entry[0]):
                listed.append(entry)
    return listed


def restore_lost(settings: Settings, run: StudyRun, paths: RunPaths) -> Path | None:
    """Before attempt *paths* of *run* starts: fetch its checkpoint when it is to go on.

    That is so when its folder was lost with its disk, and when the attempt before it was lost. An
    attempt that ended in any other way is not continued: it was cleared to run again. Never
    raises: without a checkpoint the run starts from the beginning, as it would have.
    """
    if not run.planned.spec.checkpoint_every or paths.run_dir.exists():
        return None
    sources, number = [paths.run_id], 1
    while run.paths.attempt(number) != paths:
        number += 1
    if number > 1 and _was_lost(run.paths.attempt(number - 1)):
        sources.append(run.paths.attempt(number - 1).run_id)
    try:
        for run_id in sources:
            found = restore(settings, run_id, paths.checkpoints)
            if found is not None:
                LOG.info("Run %s goes on from %s of %s", paths.run_id, found.name, run_id)
                return found
    except (TrainyardError, OSError) as error:
        LOG.warning("Run %s starts from the beginning: %s", paths.run_id, error)
    return None


def _was_lost(paths: RunPaths) -> bool:
    try:
        return paths.recorded.read_text().strip() == Status.LOST
    except OSError:
        return False
