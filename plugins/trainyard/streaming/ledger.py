"""What of a run is in the object store, kept beside the run: the next process goes on from it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract import ContractError, decode, encode
from trainyard.files import write_atomically
from trainyard.paths import RunPaths

CHECKPOINTS, PROFILES = "checkpoints", "profiles"
_IGNORED = (".partial", ".building")


@dataclass(kw_only=True, slots=True, frozen=True)
class Uploaded:
    """One file that is in the object store."""

    name: str
    """Path below the run folder."""
    size_bytes: int
    """Length."""
    mtime_ns: int
    """Moment of its last change when it was read."""
    sha256: str
    """Digest of what was sent."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Begun:
    """A multipart upload that is not complete."""

    name: str
    """Path below the run folder."""
    upload_id: str
    """The server's name of it."""
    size_bytes: int
    """Length of the file when it began."""
    mtime_ns: int
    """Its last change then: another file under the same name begins anew."""


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Everything known about a run's uploads."""

    uploaded: dict[str, Uploaded] = field(default_factory=dict)
    """By name."""
    begun: dict[str, Begun] = field(default_factory=dict)
    """By name."""
    indexed: str = ""
    """Digest of the list of checkpoints that the store has; another one is to be written."""

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Return what *path* holds; an empty one, so that all is sent again, when it is damaged."""
        try:
            data = json.loads(path.read_text())
            done = [decode(Uploaded, item, "uploaded") for item in data["uploaded"]]
            begun = [decode(Begun, item, "begun") for item in data["begun"]]
            indexed = str(data.get("indexed", ""))
        except (OSError, ValueError, KeyError, TypeError, ContractError):
            return cls()
        return cls(
            uploaded={one.name: one for one in done},
            begun={one.name: one for one in begun},
            indexed=indexed,
        )

    def write(self, path: Path) -> None:
        """Replace *path* in one step."""
        data = {
            "uploaded": [encode(one) for one in self.uploaded.values()],
            "begun": [encode(one) for one in self.begun.values()],
            "indexed": self.indexed,
        }
        write_atomically(path, json.dumps(data, indent=1))

    def holds(self, name: str, size_bytes: int, mtime_ns: int) -> bool:
        """Say whether this very file was sent."""
        known = self.uploaded.get(name)
        return known is not None and (known.size_bytes, known.mtime_ns) == (size_bytes, mtime_ns)


def key_of(run_id: str, name: str) -> str:
    """Return where a file of a run is stored: its kind comes first, so that rules can age it."""
    first, _, rest = name.partition("/")
    if first in {CHECKPOINTS, PROFILES} and rest:
        return f"{first}/{run_id}/{rest}"
    return f"{'logs' if name.endswith('.log') else 'runs'}/{run_id}/{name}"


def index_key(run_id: str) -> str:
    """Return where the list of a run's stored checkpoints is."""
    return f"{CHECKPOINTS}/{run_id}/index.json"


def files_of(paths: RunPaths) -> Iterator[tuple[str, int, int]]:
    """Yield (name, bytes, mtime in ns) of every file of a run; links and drafts are left out."""
    for path in sorted(paths.run_dir.rglob("*")):
        name = path.relative_to(paths.run_dir).as_posix()
        if path == paths.streamed or path.name.endswith(_IGNORED):
            continue
        if path.name.startswith(f".{paths.streamed.name}."):
            continue
        with contextlib.suppress(FileNotFoundError):  # the trainer removes old checkpoints
            if path.is_symlink() or not path.is_file():
                continue
            info = path.stat()
            yield name, info.st_size, info.st_mtime_ns
