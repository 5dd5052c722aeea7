"""Probes of a node: recorded trees and drivers, a real run, and probes that hang or die."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import REPOSITORY
from tests.trainer.nvml_driver import HEALTHY, Driver
from trainer.contract import ContractError, Measurement, ProbeReport, loads
from trainer.nvml import Nvml
from trainer.probes import facts_gpu, facts_host, facts_places
from trainer.probes.bench_cpu import peak
from trainer.probes.found import Place
from trainer.probes.native import find_program
from trainer.probes.registry import PROBES, Entry, find
from trainer.probes.supervisor import Supervisor
from trainer.probes.timing import Limit, Timed, bootstrap, rate

ZEN5 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model name\t: AMD EPYC 9575F
cpu MHz\t\t: 3300.000
microcode\t: 0xb002147
flags\t\t: fpu avx2 fma avx512f avx512_bf16 hypervisor
"""


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cpus():
    files = {}
    for number in range(8):
        folder = f"sys/devices/system/cpu/cpu{number}"
        files[f"{folder}/topology/physical_package_id"] = f"{number // 4}\n"
        files[f"{folder}/topology/core_id"] = f"{number % 4 // 2}\n"
    return files


TREE = cpus() | {
    "proc/cpuinfo": ZEN5,
    "proc/meminfo": "MemTotal: 131072000 kB\nMemAvailable: 1024 kB\nHugePages_Total: 4\n"
    "Hugepagesize: 2048 kB\nSwapTotal: 0 kB\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    "sys/devices/system/node/node1/cpulist": "4-7\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "5000000\n",
    "sys/devices/system/cpu/cpu0/cache/index3/level": "3\n",
    "sys/devices/system/cpu/cpu0/cache/index3/type": "Unified\n",
    "sys/devices/system/cpu/cpu0/cache/index3/size": "32768K\n",
    "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list": "0-3\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
}


def values(found):
    return {fact.name: fact.value for fact in found.facts}


def test_host_facts_of_a_recorded_tree(tmp_path):
    found = facts_host.host(Place(root=tree(tmp_path, TREE)))
    facts = values(found)
    expected = {
        "cpu.model": "AMD EPYC 9575F",
        "cpu.instruction_sets": "avx2 avx512f avx512_bf16",
        "cpu.threads": "8",
        "cpu.cores": "4",
        "cpu.sockets": "2",
        "cpu.virtual": "yes",
        "cpu.governor": "powersave",
        "cpu.max_clock": "5000",
        "numa.nodes": "2",
        "numa.node1": "4-7",
        "cache.L3": "32768K shared by 0-3",
        "memory.total": "128000",
        "memory.huge_pages": "4",
        "memory.transparent_huge_pages": "madvise",
    }
    assert {name: facts[name] for name in expected} == expected
    assert [problem.what for problem in found.problems] == ["frequency governor 'powersave'"]
    stable = {fact.name: fact.stable for fact in found.facts}
    assert not stable["memory.available"]
    assert stable["memory.total"]


def test_a_cpu_quota_is_named(tmp_path):
    half = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu\n",
    }
    found = facts_host.limits(Place(root=tree(tmp_path, TREE | half)))
    assert values(found)["limits.cores"] == "1"
    assert values(found)["limits.cgroup_version"] == "2"
    if len(os.sched_getaffinity(0)) > 1:
        assert "quota" in found.problems[0].what


@pytest.mark.parametrize(
    ("content", "fact", "problem"),
    [
        ("RmProfilingAdminOnly: 0\n", "everybody", False),
        ("EnableMSI: 1\nRmProfilingAdminOnly: 1\n", "root alone", True),
    ],
)
def test_gpu_counters_permission(tmp_path, monkeypatch, content, fact, problem):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    files = {"proc/driver/nvidia/params": content, "proc/sys/kernel/perf_event_paranoid": "2\n"}
    found = facts_places.permissions(Place(root=tree(tmp_path, files)))
    assert values(found)["profiler.gpu_counters"] == fact
    assert bool(found.problems) is problem


def test_the_deepest_mount_holds_a_folder(tmp_path):
    mounts = {"/": "ext4", str(tmp_path): "lustre", "/other": "nfs"}
    assert facts_places.mount_of(tmp_path / "runs", mounts) == (str(tmp_path), "lustre")


@pytest.mark.parametrize(
    ("cpuinfo", "kind", "expected"),
    [
        (ZEN5, "float32", 64 * 5e9 * 2),
        (ZEN5, "float64", 32 * 5e9 * 2),
        (ZEN5, "bfloat16", 128 * 5e9 * 2),
        (ZEN5.replace("26", "25"), "float32", 32 * 5e9 * 2),
        (ZEN5.replace(" avx512_bf16", ""), "bfloat16", None),
        (ZEN5.replace("AuthenticAMD", "HygonGenuine"), "float32", None),
        (ZEN5.replace("AuthenticAMD", "GenuineIntel").replace("avx512f", "amx_bf16"),
         "bfloat16", 2048 * 5e9 * 2),
    ],
)  # fmt: skip
def test_peak_of_a_processor(cpuinfo, kind, expected):
    import torch

    limit = peak(cpuinfo, getattr(torch, kind), 2, 5000.0)
    assert limit.value == expected
    assert limit.source
    assert peak(cpuinfo, getattr(torch, kind), 2, None).value is None, "a nominal clock is no limit"


def gpu_facts(answers, processes=()):
    return facts_gpu.describe(Nvml.every(Driver(answers, processes)))


def test_a_healthy_gpu_has_facts_and_no_problem():
    found = gpu_facts(HEALTHY)
    facts = values(found)
    assert facts["gpu.count"] == "2"
    assert facts["gpu1.model"] == "NVIDIA H200"
    assert facts["gpu0.nvlinks"] == "18 of 18"
    assert facts["gpu0.power_limit"] == "700"
    assert facts["gpu0.foreign_processes"] == "none"
    assert found.problems == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({("nvmlDeviceGetNvLinkState", 4): (0,)}, "1 of 18 NVLinks are down"),
        ({"nvmlDeviceGetTotalEccErrors": (7,)}, "7 uncorrected memory errors"),
        ({"nvmlDeviceGetRemappedRows": (0, 1, 1, 0)}, "waits for a reset"),
        ({"nvmlDeviceGetRemappedRows": (0, 1, 0, 1)}, "could not be remapped"),
        ({"nvmlDeviceGetCurrPcieLinkWidth": (8,)}, "8 of 16 lanes"),
        ({"nvmlDeviceGetPersistenceMode": (0,)}, "persistence mode is off"),
        ({"nvmlDeviceGetEnforcedPowerLimit": (500_000,)}, "power limit 500 W"),
    ],
)
def test_every_defect_of_a_gpu_is_named_with_its_fix(change, told):
    found = gpu_facts(HEALTHY | change)
    assert [told in problem.what for problem in found.problems] == [True, True]  # both GPUs
    assert all(problem.fix for problem in found.problems)


def test_a_driver_that_knows_nothing_leaves_facts_out():
    assert set(values(gpu_facts({}))) == {
        "gpu.count",
        "gpu0.foreign_processes",
        "gpu1.foreign_processes",
    }


def test_a_foreign_process_reaches_the_measurements_that_follow(tmp_path):
    found = gpu_facts(HEALTHY, ((4711, 3 << 30),))
    assert values(found)["gpu0.foreign_processes"] == "pid 4711 (3072 MiB)"
    supervisor = Supervisor(Place(run_dir=tmp_path), budget_s=5)
    supervisor._notice(found)
    doubt = supervisor._foreign
    assert "pid 4711" in doubt
    timed = Timed(seconds=(1.0, 1.0), foreign_cores=0.0)
    made = rate("gpu0.copy", timed, amount=1.0, unit="B/s", limit=Limit(source="-"), doubt=doubt)
    assert not made.valid
    assert "pid 4711" in made.why


def test_intervals_and_flags():
    steady = Timed(seconds=(1.0, 1.01, 0.99, 1.0, 1.0), foreign_cores=0.0)
    limit = Limit(value=200.0, source="told")
    made = rate("x", steady, amount=100.0, unit="B/s", limit=limit)
    assert made.valid
    assert made.low <= made.value <= made.high
    assert made.ratio == pytest.approx(0.5, rel=0.02)
    shaky = Timed(seconds=(1.0, 2.0, 1.0, 2.0), foreign_cores=9.0)
    told = rate("x", shaky, amount=100.0, unit="B/s", limit=limit).why
    assert "unstable" in told
    assert "foreign load" in told


def test_the_bootstrap_covers_the_median():
    draws = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        low, high = bootstrap(draws.normal(10.0, 1.0, 25))
        hits += low <= 10.0 <= high
    assert hits >= 50  # 57 expected; percentile intervals of small samples are a little short


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unit": ""}, "unit"),
        ({"low": 3.0}, "order"),
        ({"value": float("nan")}, "order"),
        ({"valid": False}, "why"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_a_measurement_nobody_can_read_is_refused(change, told):
    good = {"name": "x", "value": 2.0, "unit": "s", "low": 1.0, "high": 3.0, "repeats": 5}
    with pytest.raises(ContractError, match=told):
        Measurement(**(good | change))


HANGING = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["probe"] == "hangs":
        time.sleep(600)
    if request["probe"] == "dies":
        sys.exit(9)
    print(json.dumps({"facts": [], "measurements": [],
                      "problems": [{"probe": request["probe"], "what": "fine", "fix": ""}]}),
          flush=True)
"""


def supervised(tmp_path, names, budget_s=20.0, limit_s=1.0):
    worker = tmp_path / "worker.py"
    worker.write_text(HANGING)
    entries = {name: Entry(module="", function="", limit_s=limit_s) for name in names}
    command = (sys.executable, str(worker))
    supervisor = Supervisor(Place(), budget_s=budget_s, entries=entries, worker=command)
    return {problem.probe: problem.what for problem in supervisor.run(names).problems}


def test_a_probe_that_hangs_or_dies_is_named_and_stops_no_other(tmp_path):
    begin = time.monotonic()
    told = supervised(tmp_path, ["first", "hangs", "dies", "last"], limit_s=3.0)
    assert time.monotonic() - begin < 15
    assert told["first"] == told["last"] == "fine"
    assert "no answer within 3 s" in told["hangs"]
    assert "code" in told["dies"]


def test_the_budget_ends_the_suite(tmp_path):
    told = supervised(tmp_path, ["hangs", "last"], budget_s=0.5, limit_s=60.0)
    assert "no answer" in told["hangs"]
    assert "budget of 0 s" in told["last"] or "budget" in told["last"]


def test_every_probe_exists():
    assert all(callable(find(name)) for name in PROBES)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainer.probes", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=REPOSITORY,
    )


def test_bad_options_are_refused():
    assert "choose from gpu, host" in run("--only", "gpus").stderr
    assert run("--budget", "0").returncode == 64


@pytest.mark.slow
def test_a_real_run_measures_this_machine(tmp_path):
    done = run("--quick", "--run-dir", str(tmp_path), "--out", str(tmp_path / "reports"))
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "reports").iterdir()
    report = loads(ProbeReport, path.read_text())
    assert report.seconds < 60
    measured = {one.name: one for one in report.measurements}
    assert measured["memory.triad"].value > 1e8
    if find_program("cc", "gcc") and os.uname().machine == "x86_64":
        assert measured["memory.triad_streaming"].value > 1e8
    if find_program("mpicc") and find_program("mpirun"):
        assert any(name.startswith("mpi.") and "all_reduce_bus" in name for name in measured)
    assert measured["cpu.matmul_fp32"].unit == "FLOP/s"
    assert {"disk.sequential_read", "loader.workers_0"} <= set(measured)
    assert any(name.startswith("gloo.") and name.endswith("point_to_point") for name in measured)
    facts = {fact.name: fact.value for fact in report.facts}
    assert facts["operator.matmul_fp32"] == "runs"
    assert not [p for p in report.problems if "no answer" in p.what or "Error" in p.what]
    assert [file.name for file in Path(tmp_path).iterdir()] == ["reports"]  # nothing left behind
    assert json.loads(path.read_text())["schema_version"] == 1
