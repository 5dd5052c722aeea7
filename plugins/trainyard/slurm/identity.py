"""Which job is ours: the key a job is found by, job ids in every spelling, identity of a job."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from trainyard.errors import ConfigurationError
from trainyard.slurm.errors import GarbageOutputError

PREFIX = "ty"
_LABEL = 100
_KEY = re.compile(rf"{PREFIX}-([0-9a-f]{{6}})-([A-Za-z0-9._-]+)-g(\d+)-([0-9a-f]{{10}})")


@dataclass(kw_only=True, slots=True, frozen=True)
class JobKey:
    """What a job is searched by, before and after it is submitted.

    ``namespace`` tells installations apart that share a Slurm user; ``generation`` counts
    intended resubmissions, after a preemption that cancels for example, so that "submit again on
    purpose" and "find what was submitted" are never confused.
    """

    namespace: str
    """Any text that names the installation and site, such as the folder of all runs."""
    run_id: str
    """The run, as ``paths.run_id_of`` names it."""
    generation: int = 0
    """0 for the first submission, one more for each intended one after it."""

    def __post_init__(self) -> None:
        """Refuse a key that could not be told from another one."""
        if not self.run_id or self.generation < 0:
            raise ConfigurationError(
                f"run_id = {self.run_id!r}, generation = {self.generation}: a Slurm job key needs "
                "a run id and a generation of 0 or more"
            )

    @property
    def name(self) -> str:
        """The job name: letters, digits, ``.``, ``_``, ``-``; the same for the same key, always.

        The readable part is cut and cleaned; the hash at the end is of the whole key. At most 140
        characters, within what slurmdbd stores (255).
        """
        whole = f"{self.namespace}\0{self.run_id}\0{self.generation}"
        tag = hashlib.sha256(whole.encode()).hexdigest()[:10]
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", self.run_id)[:_LABEL].strip("-.") or "run"
        return f"{PREFIX}-{namespace_tag(self.namespace)}-{label}-g{self.generation}-{tag}"

    @property
    def comment(self) -> str:
        """The job comment: says whose job it is to whoever reads the queue."""
        return f"trainyard key={self.name}"

    def next(self) -> JobKey:
        """Return the key of an intended resubmission."""
        return JobKey(namespace=self.namespace, run_id=self.run_id, generation=self.generation + 1)


def namespace_tag(namespace: str) -> str:
    """Return the six characters by which all job names of a namespace begin, after the prefix."""
    return hashlib.sha256(namespace.encode()).hexdigest()[:6]


def is_ours(name: str, namespace: str) -> bool:
    """Return whether a job of this name was submitted by this namespace's engine."""
    match = _KEY.fullmatch(name)
    return match is not None and match[1] == namespace_tag(namespace)


def generation_of(name: str) -> int:
    """Return the generation in a job name of ours; raises ``ValueError`` for other names."""
    match = _KEY.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is no job name of this engine")
    return int(match[3])


_ID = re.compile(
    r"(?P<base>\d+)"
    r"(?:_(?:(?P<task>\d+)|\[(?P<tasks>[0-9,:.\-]*)(?:%(?P<throttle>\d+))?\]))?"
    r"(?:\+(?P<component>\d+))?"
    r"(?:\.(?P<step>[A-Za-z0-9_+-]+))?"
)


@dataclass(kw_only=True, slots=True, frozen=True)
class JobId:
    """A job id in any spelling Slurm prints: ``12``, ``12_3``, ``12_[1-9%2]``, ``12+1``."""

    base: int
    """Id of the job, of the whole array or of the first het component."""
    task: int | None = None
    """Index of one array element."""
    tasks: tuple[tuple[int, ...], ...] = ()
    """What a compact id of waiting elements stands for: (first, last, step) of each range."""
    open_ended: bool = False
    """The compact id was cut (``...``): it may stand for more elements."""
    throttle: int | None = None
    """Elements of the array that may run at once (``%2``)."""
    component: int | None = None
    """Offset of a het component."""
    step: str = field(default="")
    """Step name of sacct rows such as ``12.batch``; empty for the job itself."""

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Return the id *text* spells; raises ``GarbageOutputError`` naming it."""
        match = _ID.fullmatch(text.strip())
        if not match:
            raise GarbageOutputError(
                f"job id {text!r}: expected a form such as 12, 12_3, 12_[1-9%2] or 12+1"
            )
        listed = match["tasks"]
        return cls(
            base=int(match["base"]),
            task=_number(match["task"]),
            tasks=_ranges(listed, text) if listed is not None else (),
            open_ended=listed is not None and "..." in listed,
            throttle=_number(match["throttle"]),
            component=_number(match["component"]),
            step=match["step"] or "",
        )

    def covers(self, task: int) -> bool:
        """Return whether this id is, or stands for, array element *task*."""
        if self.task is not None:
            return self.task == task
        if self.open_ended and (not self.tasks or task > self.tasks[-1][1]):
            return True
        return any(
            first <= task <= last and not (task - first) % step for first, last, step in self.tasks
        )

    def __str__(self) -> str:
        """Return the id as scancel and sacct take it; a compact id becomes the whole array."""
        task = f"_{self.task}" if self.task is not None else ""
        component = f"+{self.component}" if self.component is not None else ""
        return f"{self.base}{task}{component}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _ranges(listed: str, whole: str) -> tuple[tuple[int, ...], ...]:
    found = []
    for part in listed.replace("...", "").split(","):
        if not part:
            continue
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise GarbageOutputError(f"job id {whole!r}: {part!r} is no range of array elements")
        found.append((int(match[1]), int(match[2] or match[1]), int(match[3] or 1)))
    return tuple(found)


@dataclass(kw_only=True, slots=True, frozen=True)
class JobIdentity:
    """Which attempt of which job: job ids come round again, and a requeue keeps the id."""

    cluster: str
    """Cluster name, as slurm.conf gives it."""
    job_id: int
    """Id of the job, of the array, or of the first het component."""
    submitted: int
    """Submit time on the controller's clock, seconds since 1970; a requeue sets it anew."""
    restarts: int = 0
    """How often the job was requeued."""

    def __str__(self) -> str:
        """Return a text that no other attempt of any job has."""
        return f"{self.cluster}/{self.job_id}@{self.submitted}r{self.restarts}"
