"""Probing nodes together: two processes of this machine stand for two nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.trainer.conftest import REPOSITORY
from trainer.contract import Fact, ProbeReport, loads
from trainer.probes import ranks
from trainer.probes.found import Found
from trainer.probes.rank import store_of

OPTIONS = ["--quick", "--only", "time"]
SCRIPT = f"""
import sys
from trainer.probes import ranks
from trainer.probes.cli import main
really = ranks.measure_gpus

def measure(more, between, environ, *, quick, doubt):
    really(more, between, environ, quick=quick, doubt=doubt)  # no GPU: nothing to measure
    # What NCCL would do, in its place; then NCCL itself, on GPUs that are not there.
    ranks.measure_apart(more, "gloo", "apart", environ, quick=quick, doubt="told by n2")
    ranks.own_gpu = lambda environ, gpus: True
    really(more, between, environ, quick=quick, doubt=doubt)

ranks.measure_gpus = measure
sys.exit(main({OPTIONS} + ["--out", sys.argv[1], "--run-dir", sys.argv[1]]))
"""


def nodes(folder):
    """Run the script as the ranks of two nodes with one rank each; return their reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            cwd=REPOSITORY,
            env=common | {"RANK": place, "GROUP_RANK": place, "SLURMD_NODENAME": f"n{place}"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for place in "01"
    ]
    for process in started:
        words = process.communicate(timeout=90)[1]
        assert process.returncode == 0, words
    return [loads(ProbeReport, (folder / f"n{place}.json").read_text()) for place in "01"]


@pytest.mark.slow
def test_nccl_that_fails_is_a_problem_and_costs_no_other_number(tmp_path):
    first, second = nodes(tmp_path)
    made = {one.name: one for one in first.measurements}
    assert "gloo.2_nodes_2_ranks.point_to_point" in made
    assert made["gloo.apart.all_reduce_bus.16777216"].value > 1e6, "what NCCL's place would do"
    assert "told by n2" in made["gloo.apart.point_to_point"].why
    assert not [name for name in made if name.startswith("nccl")]
    (problem,) = [one for one in first.problems if one.probe == "collectives"]
    assert problem.what.startswith("nccl between 2_nodes_2_ranks: ")
    assert "Error" in problem.what
    assert "NCCL_DEBUG" in problem.fix
    assert second.measurements == ()
    assert not [one for one in second.problems if one.probe == "collectives"], "said once"


@pytest.fixture
def alone(monkeypatch):
    """A group of one: what every rank gives is what this one gives."""
    monkeypatch.setattr(ranks, "gathered", lambda one: [one])
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)


@pytest.mark.parametrize(
    ("place", "gpus", "has"),
    [
        ({"LOCAL_RANK": "0"}, 0, False),
        ({"LOCAL_RANK": "0"}, 1, True),
        ({"LOCAL_RANK": "3"}, 3, False),
        ({"SLURM_LOCALID": "3"}, 4, True),
        ({}, 1, True),
    ],
)
def test_a_rank_has_the_gpu_at_its_place(place, gpus, has):
    assert ranks.own_gpu(place, gpus) is has


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_nccl_is_measured_only_where_every_rank_has_its_gpu(monkeypatch, gpus):
    asked = []
    monkeypatch.setattr(ranks, "gathered", lambda one: [one, (gpus > 1, "n2: busy")])
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(ranks, "measure_apart", lambda *a, **more: asked.append((a[1:3], more)))
    ranks.measure_gpus(Found(), "2_nodes_2_ranks", {}, quick=True, doubt="n1: busy")
    expected = [(("nccl", "2_nodes_2_ranks"), {"quick": True, "doubt": "n1: busy; n2: busy"})]
    assert asked == (expected if gpus > 1 else [])


def test_a_process_that_hangs_is_ended_and_named(monkeypatch, alone, tmp_path):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(slow))
    monkeypatch.setattr(ranks, "_APART_S", 0.5)
    more = Found()
    around = {"MASTER_ADDR": "127.0.0.1"}
    ranks.measure_apart(more, "nccl", "2_nodes_2_ranks", around, quick=True, doubt="")
    assert "nccl between 2_nodes_2_ranks: " in more.problems[0].what
    assert "no end within" in more.problems[0].what
    assert more.measurements == []


def test_no_meeting_place_is_a_problem(alone, monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("the port is taken")

    monkeypatch.setattr("torch.distributed.TCPStore", refuses)
    more, around = Found(), {"MASTER_ADDR": "n1"}
    ranks.measure_apart(more, "nccl", "2_nodes_2_ranks", around, quick=True, doubt="")
    assert "no meeting place at n1: the port is taken" in more.problems[0].what


def test_foreign_programs_of_a_node_are_told_to_the_others():
    def fact(name, value):
        return Fact(name=name, value=value, source="NVML")

    busy, free = fact("gpu0.foreign_processes", "pid 7"), fact("gpu1.foreign_processes", "none")
    made = ProbeReport(node="n", started_at="2026-11-22T02:00:00+00:00", seconds=1.0, facts=(busy,))
    assert ranks.foreign(made).endswith("gpu0.foreign_processes: pid 7")
    made = ProbeReport(node="n", started_at="2026-11-22T02:00:00+00:00", seconds=1.0, facts=(free,))
    assert ranks.foreign(made) == ""
    assert ranks.foreign(None) == "", "a rank that is not the first of its node"


def test_meeting_places(tmp_path):
    import torch

    assert store_of(f"file:{tmp_path}/store", 1).path == f"{tmp_path}/store"
    made = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    made.set("key", "value")
    assert store_of(f"tcp:127.0.0.1:{made.port}", 1).get("key") == b"value"
