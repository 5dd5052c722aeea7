"""``RunPaths``: the one object that names every file of a run. Nobody else joins path strings."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 120


def run_id_of(dag_id: str, dag_run_id: str, task_id: str, map_index: int = -1) -> str:
    """Return the id of a training run: the same for every try of one task instance.

    Letters, digits, ``.``, ``_`` and ``-`` only, so that it can name a folder, a container and a
    Slurm job; what had to be replaced or cut is told apart by a hash of the whole.
    """
    whole = f"{dag_id}/{dag_run_id}/{task_id}/{map_index}"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{dag_id}.{dag_run_id}.{task_id}").strip(".-")
    suffix = f".{map_index}" if map_index >= 0 else ""
    tag = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{readable[: _LONGEST - len(suffix) - 9]}{suffix}-{tag}"


@dataclass(kw_only=True, slots=True, frozen=True)
class RunPaths:
    """Every file of one run."""

    root: Path
    """Folder that holds all runs of a site; seen under the same path by whatever runs them."""
    run_id: str

    @property
    def run_dir(self) -> Path:
        """The run's own folder."""
        return self.root / self.run_id

    @property
    def spec(self) -> Path:
        """The RunSpec, written once."""
        return self.run_dir / "spec.json"

    @property
    def script(self) -> Path:
        """The rendered launch script: the wrapper around the command."""
        return self.run_dir / "launch.sh"

    @property
    def result(self) -> Path:
        """The RunResult, written by rank 0 in one step."""
        return self.run_dir / "result.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per window and epoch, while the run goes on."""
        return self.run_dir / "metrics.jsonl"

    @property
    def epochs_csv(self) -> Path:
        """One row per epoch."""
        return self.run_dir / "epochs.csv"

    @property
    def exit_code(self) -> Path:
        """The command's exit code, written by the wrapper in one step after the command ended."""
        return self.run_dir / "exit_code"

    @property
    def process(self) -> Path:
        """Identity of the started process group: pid, its start time, the host."""
        return self.run_dir / "process.json"

    @property
    def job(self) -> Path:
        """Identity of the Slurm job whose attempt runs, or ran last."""
        return self.run_dir / "job.json"

    @property
    def attempts(self) -> Path:
        """One JSON file per attempt of a Slurm job: start, end, nodes, exit code, signal."""
        return self.run_dir / "attempts"

    @property
    def journal(self) -> Path:
        """Submissions to Slurm: every intent, on disk before it is done, and what became of it."""
        return self.run_dir / "submissions.json"

    @property
    def watch(self) -> Path:
        """What the watcher of a Slurm job has seen, so that a restarted one goes on from there."""
        return self.run_dir / "watch.json"

    @property
    def verdict(self) -> Path:
        """The final verdict on the newest Slurm job, with that job's name."""
        return self.run_dir / "verdict.json"

    @property
    def containers(self) -> Path:
        """What the run's containers are and what became of them (``trainyard.docker.files``)."""
        return self.run_dir / "containers"

    @property
    def relayed(self) -> Path:
        """Byte offsets up to which the run's logs stand in its task's log."""
        return self.run_dir / "relayed.json"

    @property
    def stdout(self) -> Path:
        """The command's standard output."""
        return self.run_dir / "stdout.log"

    @property
    def stderr(self) -> Path:
        """The command's standard error."""
        return self.run_dir / "stderr.log"

    @property
    def cancelled(self) -> Path:
        """Present once somebody asked for the run's end; holds who and why."""
        return self.run_dir / "cancelled"

    @property
    def claim(self) -> Path:
        """Which Airflow try waits for the run; outside the folder, so that all claims are listed
        at once. Gone once the run is recorded.
        """
        return self.root / ".claims" / self.run_id

    @property
    def recorded(self) -> Path:
        """The verdict; present once database, tracking server and object store have the run."""
        return self.run_dir / "recorded"

    @property
    def streamed(self) -> Path:
        """Which of the run's files are in the object store, and which are on their way."""
        return self.run_dir / "streamed.json"

    @property
    def wrapper_log(self) -> Path:
        """What the launch script itself said, for instance that a folder is missing."""
        return self.run_dir / "wrapper.log"

    @property
    def lock(self) -> Path:
        """Held while a run is being started, so that two tries start one process."""
        return self.root / ".locks" / self.run_id

    def attempt(self, number: int) -> RunPaths:
        """Return the files of attempt *number* of this run; attempt 1 is the run itself."""
        if number == 1:
            return self
        return RunPaths(root=self.root, run_id=f"{self.run_id}.attempt-{number}")

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.run_dir / "checkpoints"

    @property
    def probes(self) -> Path:
        """Folder of probe reports, one file per node."""
        return self.run_dir / "probes"

    @property
    def profiles(self) -> Path:
        """Folder of profiler output, one file per rank."""
        return self.run_dir / "profiles"
