"""Containers behind a real stack: runs are started, looked at and interfered with here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.labs import Lab, Scenario, until
from tests.fakes.runs import result
from trainer.contract import RunSpec, dumps, loads
from trainyard.docker.files import read_planned

if TYPE_CHECKING:
    from docker import DockerClient

    from trainyard.local.stack import Stack

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


class DockerScenario(Scenario):
    """One DAG run with one training run in a container."""

    task = "run_on_cpu"
    lab: DockerLab

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


class DockerLab(Lab[DockerScenario]):
    """Engine, stack, and the orders of the stand-in trainer."""

    scenario = DockerScenario
    site = "boxes"

    def __init__(self, client: DockerClient, stack: Stack, control: Path) -> None:
        super().__init__(stack, control)
        self.client = client
