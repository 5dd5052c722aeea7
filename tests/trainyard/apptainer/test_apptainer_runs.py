"""The process launcher with a real Apptainer: trained in the image, ended for certain.

The image's interpreter (Debian's Python) trains with this checkout's torch, which is bound in: see
tests/fixtures/apptainer.py.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.apptainer import USER
from trainer.contract import Dataset, Device, RunResult, RunSpec, loads
from trainyard.apptainer.prefix import CHANGED
from trainyard.backends import State, procfs
from trainyard.backends.process import ProcessBackend
from trainyard.launch import launch
from trainyard.paths import RunPaths

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("open_umask")]


def spec_of(**more: object) -> RunSpec:
    values = {"name": "tiny", "distributed": False, "steps": 6, "per_rank_batch": 8,
              "global_batch": 8, **more}  # fmt: skip
    return RunSpec(
        dataset=Dataset.SYNTHETIC, device=Device.CPU, warmup_steps=2, window_steps=2,
        evaluate=False, **values,
    )  # fmt: skip


TWO = spec_of(name="two", distributed=True, ranks=2, global_batch=16)


class Run:
    """One run in the image, or of a script that stands in for the image's Python."""

    def __init__(self, real: Any, name: str, spec: RunSpec, body: str = "", **site: Any):
        if body:
            script = real.folder / f"{name}.sh"
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
            site["python"] = str(script)
        self.spec, self.backend = spec, ProcessBackend()
        self.site = real.site(name, **site)
        self.paths = RunPaths(root=Path(self.site.runs_dir), run_id="run")
        self.backend.start(launch(spec, self.site, self.paths), self.paths, spec)

    def observe(self):
        return self.backend.observe(self.paths)

    def wait(self, seconds: float = 120):
        end = time.monotonic() + seconds
        while not (seen := self.observe()).state.is_over:
            assert time.monotonic() < end, f"{seen}: {self.errors()}"
            time.sleep(0.1)
        return seen

    def until(self, name: str, seconds: float = 120) -> str:
        path = self.paths.run_dir / name
        end = time.monotonic() + seconds
        while not (path.exists() and path.read_text().strip()):
            assert time.monotonic() < end, f"no {name}: {self.errors()}"
            assert not self.observe().state.is_over, self.errors()
            time.sleep(0.1)
        return path.read_text()

    def errors(self) -> str:
        return self.paths.stderr.read_text()[-3000:] if self.paths.stderr.exists() else ""

    def left(self) -> dict[int, int]:
        return procfs.members(str(self.paths.run_dir), None)


def test_two_ranks_train_in_the_image_and_the_result_says_which(apptainer):
    run = Run(apptainer, "train", TWO)
    assert run.wait().exit_code == 0, run.errors()
    result = loads(RunResult, run.paths.result.read_text())
    assert result.sane
    digest = run.site.apptainer.identity.digest
    assert result.provenance.image == digest
    # Debian 12's interpreter, not the one of this checkout's environment.
    assert result.provenance.python != platform.python_version()
    assert result.provenance.python.startswith("3.11.")
    assert run.paths.result.stat().st_uid == USER
    assert not run.left()


HOSTILE = "$(touch hacked) `id` \"q\" 'p' a,b=c \\ ü"


@pytest.mark.parametrize("clean", [True, False])
def test_what_the_launch_sets_arrives_and_what_the_host_has_does_not(apptainer, monkeypatch, clean):
    monkeypatch.setenv("CUDA_HOME", "/host/only")
    body = (
        "/usr/bin/python3 -c 'import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))'"
    )
    run = Run(
        apptainer, f"env-{clean}", spec_of(threads_per_rank=2), body,
        environment=(("HOSTILE", HOSTILE), ("EMPTY", "")),
        apptainer={"clean_environment": clean, "scratch": str(apptainer.folder)},
    )  # fmt: skip
    assert run.wait().exit_code == 0, run.errors()
    inside, where = json.loads(run.paths.stdout.read_text())
    assert inside["HOSTILE"] == HOSTILE
    assert inside["EMPTY"] == ""
    assert inside["OMP_NUM_THREADS"] == "2"
    assert inside["TMPDIR"] == str(apptainer.folder)
    assert inside["TRAINYARD_IMAGE_DIGEST"] == run.site.apptainer.identity.digest
    assert inside[procfs.MARK] == str(run.paths.run_dir)
    assert ("CUDA_HOME" in inside) is not clean
    assert where == str(run.paths.run_dir)
    assert not list(apptainer.folder.rglob("hacked"))


def test_folders_with_odd_names_are_bound(apptainer):
    run = Run(apptainer, "a b'ü$", spec_of(), "ls -d /data/x >seen && pwd", apptainer={
        "binds": (f"{apptainer.folder}:/data/x:ro",),
    })  # fmt: skip
    assert run.wait().exit_code == 0, run.errors()
    assert run.paths.stdout.read_text().strip() == str(run.paths.run_dir)
    assert (run.paths.run_dir / "seen").exists()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("exit 37", 37),
        # What the kernel does to a rank that is out of memory.
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ],
)
def test_exit_codes_pass_through(apptainer, body, code):
    run = Run(apptainer, f"code-{code}", spec_of(), body)
    assert run.wait().exit_code == code


def test_out_of_memory_in_the_image_is_the_end_of_the_run(apptainer):
    """A limit on address space stands in for the machine's: the interpreter gets no memory."""
    body = "ulimit -v 2000000; exec /usr/bin/python3 -c 'bytearray(1 << 33)'"
    run = Run(apptainer, "oom", spec_of(), body)
    assert run.wait().exit_code == 1
    assert "MemoryError" in run.errors()


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_nothing_of_an_ended_run_is_left(apptainer, how):
    run = Run(apptainer, how, dataclasses.replace(TWO, steps=1_000_000))
    run.until("metrics.jsonl")
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in run.left()}
    assert sum(name.startswith(("python", "pt_")) for name in names) >= 1, names
    if how == "cancelled":
        assert run.backend.cancel(run.paths, why="test", grace_s=5).state is State.CANCELLED
    else:
        leader = json.loads(run.paths.process.read_text())["pid"]
        procfs.send(leader, procfs.stat(leader).start_ticks, 9)
        assert run.wait().state is State.LOST
        assert run.backend.sweep(run.paths) > 0
    assert not run.left()


def test_an_image_that_changed_since_the_plan_runs_nothing(apptainer):
    image = apptainer.folder / "other.sif"
    image.write_bytes(b"not an image")
    run = Run(apptainer, "changed", spec_of(), apptainer={"image": str(image)})
    assert run.wait().exit_code == CHANGED
    assert "plan the study again" in run.errors()
