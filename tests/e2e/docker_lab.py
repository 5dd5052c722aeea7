"""Containers behind a real stack: runs are started, looked at and interfered with here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.e2e.slurm_lab import Scenario, until
from tests.fakes.runs import result
from trainer.contract import RunSpec, dumps, loads
from trainyard.docker.files import read_planned

PROGRAM = """#!/bin/bash
# A stand-in for the trainer's python, from bash alone: it does what the file named after the seed
# says. Each start leaves a line with the image's digest.
control={control}
[[ $(<spec.json) =~ \\"seed\\":\\ *([0-9]+) ]] && seed=$control/${{BASH_REMATCH[1]}}
echo "$TRAINYARD_IMAGE_DIGEST" >>"$seed.starts"
echo '{{"event": "phase", "name": "train"}}' >>metrics.jsonl
echo "said while it trains" >&2
words=$(<"$seed")
while [[ $words == *wait* && ! -e $seed.go ]]; do sleep 0.1; done
if [[ $words == *fail* ]]; then echo "the trainer gave up" >&2; exit 1; fi
if [[ $words == *hungry* ]]; then x=$(head -c 200000000 /dev/zero | tr '\\0' x); exit 1; fi
cp "$seed.result" result.json
"""


class DockerLab:
    """Engine, stack, and the orders of the stand-in trainer."""

    def __init__(self, client, stack, control: Path) -> None:
        self.client = client
        self.stack = stack
        self.control = control
        self.seeds = 0

    def start(self, name: str, *words: str, site: str = "boxes") -> DockerScenario:
        self.seeds += 1
        (self.control / str(self.seeds)).write_text(" ".join(words))
        conf = {"site": site, "dataset": "synthetic", "ranks": [1], "steps": 20,
                "threads_per_rank": 1, "loader_workers": 0, "base_seed": self.seeds}  # fmt: skip
        self.stack.api.trigger("train", conf, name)
        return DockerScenario(self, name, self.seeds)


class DockerScenario(Scenario):
    """One DAG run with one training run in a container."""

    task = "run_on_cpu"

    def go(self, attempt: int = 1) -> None:
        """Let the stand-in end well, with a result of the run it was started for."""
        paths = self.paths.attempt(attempt)
        spec = loads(RunSpec, paths.spec.read_text(), str(paths.spec))
        made = replace(result(paths.run_id, spec))
        (self.lab.control / f"{self.seed}.result").write_text(dumps(made))
        super().go()

    def names(self, attempt: int = 1) -> tuple[str, ...]:
        planned = read_planned(self.paths.attempt(attempt))
        return planned.names if planned else ()

    def container(self, attempt: int = 1):
        """The run's container, or None once it is removed."""
        (name,) = self.names(attempt)
        found = self.lab.client.containers.list(all=True, filters={"name": f"^/{name}$"})
        return found[0] if found else None

    def until_gone(self, attempt: int = 1) -> None:
        until(lambda: self.container(attempt) is None, 40, "the container's removal")
