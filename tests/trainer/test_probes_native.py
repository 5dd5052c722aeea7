"""What probes build with the machine's compilers: the streaming triad, and MPI's all-reduce."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.requirements import need
from trainer.probes import bench_cpu, native
from trainer.probes.bench_cpu import load_triad
from trainer.probes.found import Found, Place

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
    assert {path.name for path in Path(native.__file__).parent.glob("*.c")} >= {"triad.c"}
