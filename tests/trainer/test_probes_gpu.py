"""Access patterns and occupancy: the real kernel, in Triton's interpreter and compiled."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import trainer.probes
from tests.requirements import need
from tests.trainer.nvml_driver import HEALTHY, Driver
from trainer.nvml import Nvml
from trainer.probes import bench_gpu_memory, gpus
from trainer.probes.found import Found, Place
from trainer.probes.occupancy import FRACTIONS, Grid, grid_of, warps_by_registers

MODULE = "trainer.probes.gpu_patterns"
BITS = 13
H200 = SimpleNamespace(
    max_threads_per_multi_processor=2048, multi_processor_count=1, regs_per_multiprocessor=65536
)


def missing(monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.delattr(trainer.probes, "gpu_patterns", raising=False)


def fresh(monkeypatch, interpret):
    """The module as Triton makes it for its interpreter, or for its compiler."""
    need(find_spec("triton"), "triton, which torch brings on Linux")
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is unset
    missing(monkeypatch)
    made = importlib.import_module(MODULE)
    # Gone again after the test, from both places in which Python keeps it.
    monkeypatch.setitem(sys.modules, MODULE, made)
    monkeypatch.setattr(trainer.probes, "gpu_patterns", made)
    return made


@pytest.fixture
def patterns(monkeypatch):
    return fresh(monkeypatch, "1")


def copied(patterns, pattern, grid, multiprocessors=3, bits=BITS):
    source = torch.arange(1 << bits, dtype=torch.float32)
    target = torch.full_like(source, -1)
    patterns.launch(source, target, pattern, grid, multiprocessors)
    return source, target.long()


@pytest.mark.parametrize("grid", [Grid(warps=4, programs=1), Grid(warps=1, programs=5)])
def test_the_kernel_reads_in_order_and_strided_as_torch_says(patterns, grid):
    source, in_order = copied(patterns, "in_order", grid)
    assert torch.equal(in_order, source.long())
    source, strided = copied(patterns, "strided", grid)
    assert torch.equal(strided, source.view(-1, 32).T.flatten().long())


@pytest.mark.parametrize("bits", [12, 13])
def test_reads_at_random_touch_every_element_once_and_follow_no_stride(patterns, bits):
    _, index = copied(patterns, "random", Grid(warps=4, programs=2), bits=bits)
    assert torch.equal(index.sort().values, torch.arange(1 << bits))
    steps = index.diff()
    _, counts = steps.unique(return_counts=True)
    assert counts.max() < 0.02 * len(steps), "no step is frequent"
    together = ((index[1:] // 32) == (index[:-1] // 32)).float().mean()
    assert together < 4 * 32 / (1 << bits), "neighbours share a line about as often as by chance"


def test_random_follows_its_formula(patterns):
    _, index = copied(patterns, "random", Grid(warps=4, programs=2))
    mask, half = (1 << BITS) - 1, BITS // 2
    wanted = torch.arange(1 << BITS)
    for factor in (0x2C1B3C6D, 0x297A2D39):
        wanted = (wanted ^ (wanted >> half)) * factor & mask
    assert torch.equal(index, wanted ^ (wanted >> half))


def test_the_kernel_compiles_for_hopper_with_wide_loads_and_few_registers(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    patterns = fresh(monkeypatch, "0")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = ("BITS", "PATTERN", "STRIDE", "BLOCK")
    signature = {"source": "*fp32", "target": "*fp32"} | dict.fromkeys(names, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place in (0, 1)}
    reads = {}
    for pattern, number in patterns.PATTERNS.items():
        constants = dict(zip(names, (28, number, patterns.STRIDE_BITS, 512), strict=True))
        code = ASTSource(patterns.copy_by_pattern, signature, constants, aligned)
        made = triton.compile(code, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
        reads[pattern] = re.findall(r"ld\.global\.(\S+)", made.asm["ptx"])
        assert re.findall(r"st\.global\.(\S+)", made.asm["ptx"]) == ["v4.b32"]
        assert made.metadata.shared == 0
        binary = tmp_path / f"{pattern}.cubin"
        binary.write_bytes(made.asm["cubin"])
        used = registers(Path(triton.__file__).parent, binary)
        assert warps_by_registers(used, 65536) >= 64, "full occupancy is possible"
    assert reads == {"in_order": ["v4.b32"], "strided": ["b32"] * 4, "random": ["b32"] * 4}


def registers(triton_folder, binary):
    program = triton_folder / "backends/nvidia/bin/cuobjdump"
    done = subprocess.run(
        [program, "-res-usage", binary], capture_output=True, text=True, check=True
    )
    return int(re.search(r"REG:(\d+)", done.stdout)[1])


@pytest.mark.parametrize(
    ("most", "grids"),
    [
        (64, [(4, 1), (4, 2), (4, 4), (4, 8), (4, 16)]),  # compute capability 7.0, 8.0, 9.0
        (48, [(1, 3), (2, 3), (4, 3), (4, 6), (4, 12)]),  # 8.6, 8.9, 12.0
        (32, [(2, 1), (4, 1), (4, 2), (4, 4), (4, 8)]),  # 7.5
    ],
)
def test_the_grid_of_each_occupancy(most, grids):
    made = [grid_of(fraction, most) for fraction in FRACTIONS.values()]
    assert [(grid.warps, grid.programs) for grid in made] == grids
    for percent, grid in zip(FRACTIONS, made, strict=True):
        assert int(100 * grid.resident / most) == percent


def test_less_than_a_warp_is_no_grid():
    with pytest.raises(ValueError, match="less than one"):
        grid_of(1 / 128, 64)


@pytest.mark.parametrize(
    ("per_thread", "warps"),
    # CUDA occupancy calculator, compute capability 7.0 to 9.0 with 65536 registers per SM.
    [(32, 64), (33, 48), (40, 48), (41, 40), (48, 40), (64, 32), (128, 16), (168, 12), (255, 8)],
)
def test_warps_that_registers_leave_room_for(per_thread, warps):
    assert warps_by_registers(per_thread, 65536) == warps


@pytest.fixture
def one_gpu(monkeypatch, tmp_path):
    """A GPU of the driver's table, on which torch's CUDA calls do nothing."""
    driver = Driver(HEALTHY)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))  # and so it stays as it is
    for module in (gpus, bench_gpu_memory):
        monkeypatch.setattr(module, "nvml_of", lambda number: Nvml("", driver, index=number))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: H200)
    for name in ("set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(bench_gpu_memory, "_DEVICE", "cpu")
    monkeypatch.setattr(bench_gpu_memory, "_COUNT", 1 << 11)
    return driver


PATTERN_NAMES = ["gpu0.read_in_order", "gpu0.read_strided", "gpu0.read_random"]


def test_the_sweep_measures_patterns_and_every_occupancy(patterns, one_gpu, monkeypatch):
    started = []

    def launch(source, target, pattern, grid, multiprocessors):
        started.append((pattern, grid.resident))
        target.copy_(source)
        return SimpleNamespace(n_regs=40)  # leaves room for 48 warps

    monkeypatch.setattr(patterns, "launch", launch)
    made = {one.name: one for one in bench_gpu_memory.memory(Place(quick=True)).measurements}
    occupancies = [f"gpu0.copy_occupancy_{percent}" for percent in (6, 12, 25, 50, 100)]
    assert list(made) == ["gpu0.copy", *PATTERN_NAMES, *occupancies]
    assert set(started) == {("strided", 64), ("random", 64)} | {
        ("in_order", warps) for warps in (4, 8, 16, 32, 64)
    }
    bandwidth = 6144 / 8 * 3201e6 * 2
    assert {one.limit for one in made.values()} == {bandwidth}
    assert "16 of 64 warps per SM" in made["gpu0.copy_occupancy_25"].limit_source
    assert "leave room for" not in made["gpu0.copy_occupancy_50"].why
    assert "40 registers per thread leave room for 48 warps of 64" in (
        made["gpu0.copy_occupancy_100"].why
    )


def test_a_kernel_that_does_not_say_its_registers_is_doubted(patterns, one_gpu):
    """As the interpreter's, whose launches return nothing; its copies are real ones."""
    made = {one.name: one for one in bench_gpu_memory.memory(Place(quick=True)).measurements}
    assert "255 registers per thread" in made["gpu0.copy_occupancy_25"].why
    assert "registers" not in made["gpu0.copy_occupancy_12"].why


def test_without_triton_torch_measures_the_patterns_and_says_so(one_gpu, monkeypatch):
    missing(monkeypatch)
    monkeypatch.setitem(sys.modules, MODULE, None)  # importing it fails
    found = bench_gpu_memory.memory(Place(quick=True, foreign="gpu0: pid 7"))
    assert [one.name for one in found.measurements] == ["gpu0.copy", *PATTERN_NAMES]
    for one in found.measurements[1:]:
        assert "8 bytes of index counted: no Triton (ModuleNotFoundError" in one.limit_source
    assert all("pid 7" in one.why for one in found.measurements)
    assert found.problems == []


def test_a_compiler_that_fails_is_no_problem_of_the_node(patterns, one_gpu, monkeypatch):
    def fails(*_):
        raise RuntimeError("Failed to find C compiler\nsecond line")

    monkeypatch.setattr(patterns, "launch", fails)
    found = bench_gpu_memory.memory(Place(quick=True))
    assert "no Triton (RuntimeError: Failed to find C compiler)" in (
        found.measurements[-1].limit_source
    )
    assert found.problems == []


def test_without_a_gpu_nothing_is_measured_and_triton_stays_unloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    missing(monkeypatch)
    assert bench_gpu_memory.memory(Place()) == Found()
    assert MODULE not in sys.modules
