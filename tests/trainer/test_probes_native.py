"""What probes build with the machine's compilers: the streaming triad, and MPI's all-reduce."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.requirements import need
from trainer.probes import bench_cpu, bench_mpi, native
from trainer.probes.bench_cpu import load_triad
from trainer.probes.found import Found, Place

SOURCES = {"triad.c", "mpi_allreduce.c"}
COUNT = 1 << 20
CC = native.find_program("cc", "gcc")
X86 = os.uname().machine == "x86_64"


def triad(found, count=COUNT):
    need(CC and X86, "a C compiler on x86-64: apt-get install gcc libc6-dev")
    bench_cpu._streaming(found, CC, count, Place(quick=True))
    return {one.name: one for one in found.measurements}


@pytest.mark.parametrize(
    ("machine", "flag"), [("-march=x86-64", "sse2"), ("-mavx", "avx"), ("-march=native", "sse2")]
)
def test_a_pass_of_the_streaming_triad_writes_every_element(machine, flag):
    need(CC and X86, "a C compiler on x86-64: apt-get install gcc libc6-dev")
    if flag not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {flag}")
    library = load_triad(CC, machine)
    for threads in (1, 3):
        assert library.triad_begin(COUNT, threads) == 0
        assert library.triad_wrong() == COUNT, "nothing is written yet"
        library.triad_pass()
        assert library.triad_wrong() == 0
        library.triad_end()


def test_the_streaming_triad_is_measured_like_torchs():
    made = triad(Found())["memory.triad_streaming"]
    assert made.value > 1e8
    assert made.unit == "B/s"
    assert made.repeats >= 7


def test_arrays_that_do_not_fit_are_a_problem_and_no_crash():
    found = Found()
    assert triad(found, 1 << 58) == {}
    assert "no room" in found.problems[0].what


def test_a_compiler_that_cannot_build_is_a_problem_with_its_error(tmp_path):
    broken = tmp_path / "cc"
    broken.write_text(
        "#!/bin/sh\necho 'in file x:'>&2; echo 'omp.h: fatal error: none'>&2; exit 1\n"
    )
    broken.chmod(0o755)
    found = Found()
    bench_cpu._streaming(found, str(broken), COUNT, Place(quick=True))
    assert found.measurements == []
    assert "does not build triad.c: omp.h: fatal error: none" in found.problems[0].what
    assert found.problems[0].fix


def test_without_a_compiler_only_torchs_triad_is_measured(monkeypatch):
    monkeypatch.setattr(bench_cpu, "find_program", lambda *names: None)
    monkeypatch.setattr(
        bench_cpu, "_ordinary", lambda found, count, place: found.fact("ordinary", count, source="")
    )
    found = bench_cpu.memory(Place(quick=True))
    assert [fact.name for fact in found.facts] == ["ordinary"]
    assert (found.measurements, found.problems) == ([], [])


def test_the_c_sources_lie_beside_the_module():
    assert {path.name for path in Path(native.__file__).parent.glob("*.c")} == SOURCES


MPI = native.find_program("mpicc") and native.find_program("mpirun")


def test_real_mpi_is_measured_with_the_names_and_rules_of_gloo(tmp_path, monkeypatch):
    need(MPI, "an MPI: apt-get install openmpi-bin libopenmpi-dev")
    monkeypatch.setattr(bench_mpi, "usable_cores", lambda: 3)
    found = Found()
    bench_mpi.measure_mpi(found, native.find_program("mpicc"), tmp_path, quick=True)
    assert found.problems == []
    made = {one.name: one for one in found.measurements}
    assert set(made) == {
        "mpi.3_ranks.all_reduce_time.8",
        "mpi.3_ranks.all_reduce_time.65536",
        "mpi.3_ranks.all_reduce_time.16777216",
        "mpi.3_ranks.all_reduce_bus.16777216",
        "mpi.3_ranks.point_to_point",
    }
    assert {one.repeats for one in made.values()} == {12}
    seconds = made["mpi.3_ranks.all_reduce_time.16777216"].value
    bus = made["mpi.3_ranks.all_reduce_bus.16777216"].value
    assert bus * seconds == pytest.approx(2 * 2 / 3 * (1 << 24), rel=0.2)  # medians of even counts
    assert made["mpi.3_ranks.all_reduce_time.8"].value < seconds


def test_the_mpi_probe_runs_as_root_within_a_job_and_on_one_core(monkeypatch):
    need(MPI, "an MPI: apt-get install openmpi-bin libopenmpi-dev")
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "PMIX_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = bench_mpi.mpi(Place(quick=True))
    finally:
        os.sched_setaffinity(0, before)
    assert {fact.name: fact.value for fact in found.facts} == {"mpi.two_processes": "runs"}
    assert found.problems == []
    assert "mpi.2_ranks.point_to_point" in {one.name for one in found.measurements}


def test_mpi_keeps_to_the_cores_it_may_use():
    around = {"PATH": "/bin", "SLURM_NODELIST": "n[1-9]", "OMPI_MCA_btl": "tcp,self"}
    whole = bench_mpi.environment(around, 4, allowed=8, cores=8)
    assert whole["OMPI_MCA_btl"] == "tcp,self", "what the site sets stays"
    assert "SLURM_NODELIST" not in whole
    assert "OMPI_MCA_hwloc_base_binding_policy" not in whole
    part = bench_mpi.environment(around, 2, allowed=1, cores=8)
    assert part["OMPI_MCA_hwloc_base_binding_policy"] == "none"
    assert part["OMPI_MCA_mpi_yield_when_idle"] == "1"


def programs(tmp_path, monkeypatch, **scripts):
    for name, body in scripts.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("mpicc", "mpirun", "told"),
    [
        ("echo 'mpi.h: fatal error: gone' >&2; exit 1", "exit 0", "mpi.h: fatal error: gone"),
        ("exit 0", "echo all_reduce 8 1e-6; echo 'ranks here (1)' >&2; exit 1", "ranks here (1)"),
        ("exit 0", "echo all_reduce 8 1e-6", "no message"),
        ("exit 0", "exec sleep 60", "no end within 1 s"),
    ],
)
def test_an_mpi_that_fails_is_a_problem_and_no_number(tmp_path, monkeypatch, mpicc, mpirun, told):
    monkeypatch.setattr(bench_mpi, "_RUN_S", 1.0)
    programs(tmp_path, monkeypatch, mpicc=mpicc, mpirun=mpirun)
    found = Found()
    bench_mpi.measure_mpi(found, str(tmp_path / "mpicc"), tmp_path, quick=True)
    assert found.measurements == []
    (problem,) = found.problems
    assert told in problem.what
    assert problem.fix


def test_without_mpicc_mpi_is_checked_and_not_measured(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, mpirun="echo 2 2")
    monkeypatch.setattr(bench_mpi, "find_program", lambda *names: None)
    found = bench_mpi.mpi(Place())
    assert [fact.value for fact in found.facts] == ["runs"]
    assert (found.measurements, found.problems) == ([], [])


def test_without_mpirun_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setattr(bench_mpi, "ask", lambda argv: None)
    assert bench_mpi.mpi(Place()) == Found()
