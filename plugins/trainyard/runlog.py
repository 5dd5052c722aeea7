"""What a run says while it goes on: new lines since the last look, never the whole file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard.paths import RunPaths

TAIL_BYTES = 8192
READ_BYTES = 65536
"""Most that one look reads of one file; a flood of output costs neither memory nor the loop."""


def tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """Return the last *limit* bytes of a log as text, from a line's start; empty without a file."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - limit))
            data = handle.read(limit)
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    return text.partition("\n")[2] if size > limit and "\n" in text else text


def tail_of_run(paths: RunPaths) -> str:
    """Return the end of what a run wrote: its standard error, else its output, else its wrapper."""
    for path in (paths.stderr, paths.stdout, paths.wrapper_log):
        if text := tail(path).strip():
            return text
    return ""


@dataclass(kw_only=True, slots=True)
class Follower:
    """Reads a growing file line by line from a byte offset that can be stored and resumed."""

    path: Path
    """The file; it need not exist yet."""
    offset: int = 0
    """Bytes of whole lines read so far."""

    def lines(self) -> list[str]:
        """Return the whole lines written since the last call, at most ``READ_BYTES`` of them.

        A line without its end stays for the next call, unless it alone fills the budget. A file
        that has become shorter was begun anew, and is read from its start.
        """
        try:
            with self.path.open("rb") as handle:
                if self.offset > handle.seek(0, 2):
                    self.offset = 0
                handle.seek(self.offset)
                data = handle.read(READ_BYTES)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if not end and len(data) == READ_BYTES:
            end = READ_BYTES
        self.offset += end
        return data[:end].decode("utf-8", "replace").splitlines()


def describe(line: str) -> str:
    """Return one line of metrics.jsonl in words, or an empty string for what says nothing."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return ""
    words = _WORDS.get(event.get("event", "")) if isinstance(event, dict) else None
    try:
        return words(event) if words else ""
    except (KeyError, TypeError, ValueError):  # another trainer's idea of the event
        return line.strip()


def _window(event: dict[str, Any]) -> str:
    seconds = max(event["seconds_by_rank"])
    rate = event["images"] / seconds if seconds else 0.0
    per_step = 1000 * seconds / event["steps"]
    return f"window {event['kind']} {event['index']}: {rate:.1f} image/s, {per_step:.1f} ms/step"


def _epoch(event: dict[str, Any]) -> str:
    text = (
        f"epoch {event['index']}: {event['seconds']:.2f} s, loss {event['train_loss']:.4f}, "
        f"train accuracy {event['train_accuracy']:.4f}"
    )
    test = event.get("test_accuracy")
    return text if test is None else f"{text}, test accuracy {test:.4f}"


def _phase(event: dict[str, Any]) -> str:
    return f"phase {event['name']}"


_WORDS = {"window": _window, "epoch": _epoch, "phase": _phase}
