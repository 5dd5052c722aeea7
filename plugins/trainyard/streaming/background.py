"""``poke``: what a trigger calls at every look; the work is in threads of its own.

Two threads per process, whatever the number of runs, apart from the event loop's own pool: an
upload that waits for a silent store holds up neither a look at a run nor a trigger. Nothing here
raises, and nothing here is the run's business: what did not get through is sent when it is over.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trainyard.errors import TrainyardError
from trainyard.paths import RunPaths
from trainyard.settings import Settings, load_settings

LOG = logging.getLogger(__name__)
_THREADS = 2
_LONGEST_PAUSE_S = 300.0


@dataclass(kw_only=True, slots=True)
class _Turn:
    """When a run is looked at again."""

    due: float = 0.0
    pause_s: float = 0.0
    busy: bool = False


_POOL = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="streaming")
_TURNS: dict[str, _Turn] = {}
_GUARD = threading.Lock()


def poke(paths: RunPaths, settings: Settings | None = None) -> bool:
    """Have the files of a run sent when it is time; return whether a thread was asked to.

    Takes microseconds and never raises. *settings*: those of the installation by default.
    """
    with _GUARD:
        turn = _TURNS.setdefault(str(paths.run_dir), _Turn())
        if turn.busy or time.monotonic() < turn.due:
            return False
        turn.busy = True
    try:
        _POOL.submit(_work, paths, settings, turn)
    except RuntimeError:  # the process is ending
        turn.busy = False
        return False
    return True


def forget(paths: RunPaths) -> None:
    """Remember nothing about a run that is over."""
    with _GUARD:
        _TURNS.pop(str(paths.run_dir), None)


def _work(paths: RunPaths, settings: Settings | None, turn: _Turn) -> None:
    every_s = 10.0
    try:
        settings = settings or load_settings()
        every_s = float(settings.stream_every_s)
        if not every_s:
            turn.due = float("inf")
            return
        from trainyard.streaming.streamer import Streamer

        done = Streamer(settings, paths).step()
    except Exception as error:
        # Whatever happens to its copies, a run goes on.
        turn.pause_s = min(max(2 * turn.pause_s, every_s), _LONGEST_PAUSE_S)
        expected = isinstance(error, (TrainyardError, OSError))
        LOG.warning(
            "Run %s: files are not streamed for now, again in %.0f s: %s",
            paths.run_id,
            turn.pause_s,
            error,
            exc_info=None if expected else error,
        )
    else:
        turn.pause_s = 0.0
        if done.sent:
            LOG.info("Run %s: %s files sent, %s stored", paths.run_id, done.sent, done.stored)
    finally:
        if turn.due != float("inf"):
            turn.due = time.monotonic() + max(turn.pause_s, every_s)
        turn.busy = False
