"""Nodes that failed runs lately: left out of retries for a while, for each cluster on its own.

One bad node eats every retry otherwise: it is the idle one. An entry expires, since nodes are
repaired; a list of one cluster means nothing on another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.contract import ContractError, dumps, loads
from trainyard.errors import ConfigurationError
from trainyard.files import one_at_a_time, write_atomically
from trainyard.slurm import hostlist
from trainyard.slurm.states import Outcome
from trainyard.slurm.verdict import Verdict

HOUR_S = 3600.0
_LONGEST_S = 7 * 24 * HOUR_S
_BLAMED = frozenset({Outcome.NODE_FAIL, Outcome.BOOT_FAIL})
_LARGEST_SHARE = 0.25


@dataclass(kw_only=True, slots=True, frozen=True)
class BadNode:
    """Why one node is left out, and until when."""

    node: str
    """Node name."""
    reason: str
    """What happened on it, and to which job."""
    since: float
    """Our time of the last failure."""
    until: float
    """Our time from which it is used again."""
    failures: int = 1
    """Failures so far; each one doubles the time, up to a week."""


@dataclass(kw_only=True, slots=True, frozen=True)
class BadNodes:
    """The file's content."""

    cluster: str
    """Cluster name."""
    nodes: tuple[BadNode, ...] = ()
    """Entries, expired ones included until the next change."""


class Quarantine:
    """The bad nodes of one cluster, in one JSON file that several processes share."""

    def __init__(
        self,
        folder: Path,
        cluster: str,
        *,
        hours: float = 12.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep ``<cluster>.nodes.json`` in *folder*; a first failure counts for *hours*."""
        safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in cluster)
        self._path = folder / f"{safe}.nodes.json"
        self._lock = folder / f".{safe}.nodes.lock"
        self._cluster = cluster
        self._first_s = hours * HOUR_S
        self._clock = clock

    def active(self) -> tuple[BadNode, ...]:
        """Return the nodes left out now, the most recent failure first."""
        now = self._clock()
        known = [entry for entry in self._read().nodes if entry.until > now]
        return tuple(sorted(known, key=lambda entry: (-entry.since, entry.node)))

    def add(self, nodes: Iterable[str], reason: str) -> tuple[BadNode, ...]:
        """Leave *nodes* out from now on and return their entries."""
        now = self._clock()
        with one_at_a_time(self._lock, f"quarantining nodes of {self._cluster}", wait_s=60):
            known = {entry.node: entry for entry in self._read().nodes}
            added = [self._entry(known.get(node), node, reason, now) for node in nodes]
            known |= {entry.node: entry for entry in added}
            self._write(entry for entry in known.values() if entry.until > now - _LONGEST_S)
        return tuple(added)

    def _entry(self, known: BadNode | None, node: str, reason: str, now: float) -> BadNode:
        failures = known.failures + 1 if known else 1
        length_s = min(self._first_s * 2.0 ** min(failures - 1, 20), _LONGEST_S)
        return BadNode(node=node, reason=reason, since=now, until=now + length_s, failures=failures)

    def release(self, nodes: Iterable[str]) -> None:
        """Use *nodes* again at once and forget their failures."""
        freed = set(nodes)
        with one_at_a_time(self._lock, f"releasing nodes of {self._cluster}", wait_s=60):
            self._write(entry for entry in self._read().nodes if entry.node not in freed)

    def blame(self, verdict: Verdict) -> tuple[BadNode, ...]:
        """Leave out the nodes of a job whose end was its nodes' fault; nothing for other ends.

        Of a job over several nodes nobody says which one failed: all are left out, which is why
        ``exclude`` never takes more than a quarter of a partition away.
        """
        if verdict.outcome not in _BLAMED or not verdict.nodes:
            return ()
        return self.add(hostlist.expand(verdict.nodes), f"{verdict.state} of {verdict.identity}")

    def exclude(self, partition_nodes: Iterable[str], needed: int) -> tuple[str, ...]:
        """Return the nodes to pass to ``--exclude`` for a job on *needed* of *partition_nodes*.

        Names that the cluster does not know would make sbatch refuse the job, so only those of the
        partition count. Never more than a quarter of it, nor so many that *needed* do not remain:
        a job that cannot start is worse than one that may meet a bad node.
        """
        there = set(partition_nodes)
        room = min(max(1, int(len(there) * _LARGEST_SHARE)), len(there) - needed)
        bad = [entry.node for entry in self.active() if entry.node in there]
        return tuple(sorted(bad[: max(0, room)]))

    def _read(self) -> BadNodes:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return BadNodes(cluster=self._cluster)
        try:
            return loads(BadNodes, text, str(self._path))
        except ContractError as error:
            raise ConfigurationError(
                f"{error}. Remove the file to forget all bad nodes of {self._cluster}"
            ) from error

    def _write(self, entries: Iterable[BadNode]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = replace(
            BadNodes(cluster=self._cluster),
            nodes=tuple(sorted(entries, key=lambda entry: entry.node)),
        )
        write_atomically(self._path, dumps(content) + "\n")
