"""What cannot be analysed is an error that names the file and says what to do; never a result."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import sqlite3

import pytest

from benchmarks.profile_generator import CASES, timeline
from benchmarks.profile_nsys import Schema, write_nsys
from benchmarks.profile_writers import write_ncu, write_torch
from trainyard.errors import ProfileError
from trainyard.profile.analysis import analyse
from trainyard.profile.counters import COMPUTE_SOL, DRAM_BYTES, TENSOR, TIME
from trainyard.profile.readers import rank_in_name, read_trace
from trainyard.profile.readers.ncu import read_ncu
from trainyard.profile.readers.torch_trace import read_torch

MADE = timeline(CASES["everything"], steps=4)


def refused(paths, *words):
    with pytest.raises(ProfileError) as caught:
        analyse(read_trace(paths if isinstance(paths, list) else [paths]))
    for word in words:
        assert word in str(caught.value)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_no_file_missing_file_and_empty_file(tmp_path):
    refused([], "one per rank")
    refused(tmp_path / "r0.sqlite", "r0.sqlite", "No such file")
    refused(tmp_path, "cannot be read", "Is a directory")
    (tmp_path / "empty.json").touch()
    refused(tmp_path / "empty.json", "empty.json", "is empty", "Profile again")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r0.nsys-rep", b"\x00nsys", ["nsys export --type sqlite"]),
        ("k.ncu-rep", b"\x00ncu", ["ncu --import", "--ncu"]),
        ("k.csv", b'"ID","Kernel Name"\n', ["--ncu"]),
        ("notes.txt", b"hello", ["no trace", ".json.gz"]),
    ],
)
def test_wrong_kind_of_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name, *words)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_sqlite(tmp_path, share):
    path = cut(write_nsys(tmp_path / "r0.sqlite", timeline(CASES["host bound"])), share)
    refused(path, "r0.sqlite", "truncated or damaged", "nsys export")


@pytest.mark.parametrize("name", ["rank0.json", "rank0.json.gz"])
def test_truncated_torch_trace(tmp_path, name):
    refused(cut(write_torch(tmp_path / name, MADE), 0.6), name, "truncated")


def test_damage_inside_gzip(tmp_path):
    path = write_torch(tmp_path / "rank0.json.gz", MADE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(path, "rank0.json.gz", "damaged")


def test_a_compression_bomb_is_refused_before_it_fills_memory(tmp_path):
    path = tmp_path / "rank0.json.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(100):
            file.write(b" " * (1 << 20))
    refused(path, "refused to protect memory")


def test_a_trace_beyond_the_limit_is_refused(tmp_path):
    path = write_torch(tmp_path / "rank0.json", MADE)
    with pytest.raises(ProfileError, match="Profile fewer steps"):
        read_torch(path, limit=1000)


def test_a_column_of_the_wrong_type(tmp_path):
    path = write_nsys(tmp_path / "r0.sqlite", MADE)
    base = sqlite3.connect(path)
    base.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET end = 'soon'")
    base.commit()
    base.close()
    refused(path, "r0.sqlite", "cannot be read as a SQLite trace", "nsys export")


def test_sqlite_of_another_program(tmp_path):
    base = sqlite3.connect(tmp_path / "r0.sqlite")
    base.execute("CREATE TABLE bookmarks (id INTEGER)")
    base.commit()
    base.close()
    refused(tmp_path / "r0.sqlite", "another program", "bookmarks")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"hello": 1}, "not a torch.profiler trace"),
        ({"traceEvents": "none"}, "not a torch.profiler trace"),
        ([1, 2], "not a torch.profiler trace"),
        ({"traceEvents": []}, "its window was empty"),
        ({"traceEvents": [{"ph": "X", "cat": "blink", "ts": 1, "dur": 2}]}, "another program"),
    ],
)
def test_json_of_another_program(tmp_path, content, word):
    (tmp_path / "rank0.json").write_text(json.dumps(content))
    refused(tmp_path / "rank0.json", "rank0.json", word, "export_chrome_trace")


def test_an_empty_profile_says_what_the_profiler_said(tmp_path):
    schema = Schema(
        omit=(
            "CUPTI_ACTIVITY_KIND_KERNEL",
            "CUPTI_ACTIVITY_KIND_MEMCPY",
            "NVTX_EVENTS",
        ),
        diagnostics=((3, "CUDA profiling might have not been started correctly."),),
    )
    path = write_nsys(tmp_path / "r0.sqlite", MADE, schema)
    refused(path, "nothing to analyse", "schema 3.7.2", "might have not been started")


def test_steps_without_phases_on_a_machine_without_gpu(tmp_path):
    events = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{n}", "tid": 1,
         "ts": 10 * n, "dur": 9}
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "rank0.json").write_text(json.dumps({"traceEvents": events}))
    refused(tmp_path / "rank0.json", "no phase", "NVTX")


def test_impossible_times_and_numbers_are_dropped_and_told(tmp_path):
    path = write_torch(tmp_path / "rank0.json", MADE)
    trace = json.loads(path.read_text())
    before = len(analyse(read_trace([path])).trace.ranks[0].device)
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "tid": 7, "args": {"stream": 7, "device": 0}}
    trace["traceEvents"] += [
        {**kernel, "ts": 1e300, "dur": 1},
        {**kernel, "ts": 1, "dur": -5},
        {**kernel, "dur": 1},
        {
            **kernel,
            "ts": 1500,
            "dur": 1,
            "args": {"device": 0, "correlation": 10**30, "stream": "x"},
        },
    ]
    path.write_text(json.dumps(trace))
    found = analyse(read_trace([path]))
    assert len(found.trace.ranks[0].device) == before + 1
    assert any(note.text.startswith("3 events without") for note in found.notes)


@pytest.mark.parametrize("seed", range(12))
def test_damage_anywhere_is_an_error_or_harmless(tmp_path, seed):
    rng = random.Random(seed)
    writers = {"r0.sqlite": write_nsys, "rank0.json": write_torch}
    for name, write in writers.items():
        path = write(tmp_path / name, MADE)
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 5, 30])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(bytes(content))
        with contextlib.suppress(ProfileError):
            analyse(read_trace([path]))


def test_operators_alone_have_no_steps(tmp_path):
    event = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "tid": 1, "ts": 1, "dur": 2}
    (tmp_path / "rank0.json").write_text(json.dumps({"traceEvents": [event]}))
    refused(tmp_path / "rank0.json", "no step range")


def test_device_work_outside_the_steps(tmp_path):
    path = write_nsys(tmp_path / "r0.sqlite", MADE)
    base = sqlite3.connect(path)
    base.execute("UPDATE NVTX_EVENTS SET start = start + 1000000000, end = end + 1000000000")
    base.commit()
    base.close()
    refused(path, "none within its 4 steps")


def test_one_rank_without_device_work(tmp_path):
    first = write_nsys(tmp_path / "r0.sqlite", MADE)
    omit = ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY")
    second = write_nsys(tmp_path / "r1.sqlite", MADE, Schema(omit=omit))
    refused([first, second], "r1.sqlite", "no device work while rank 0 has")


def test_mixed_clocks(tmp_path):
    nsys = write_nsys(tmp_path / "r0.sqlite", MADE)
    torch = write_torch(tmp_path / "rank1.json", MADE, rank=1)
    refused([nsys, torch], "nsys and torch", "clocks")
    without = write_nsys(tmp_path / "r1.sqlite", MADE, Schema(utc=False))
    refused([nsys, without], "r1.sqlite", "mixed clocks", "UTC")
    other = write_nsys(tmp_path / "r2.sqlite", MADE, epoch=10**18)
    refused([nsys, other], "not from the same run")
    refused([nsys, nsys], "Rank 0 is there twice", "r<rank>.sqlite")


def test_clocks_of_two_hosts_are_not_trusted(tmp_path):
    paths = [write_nsys(tmp_path / f"r{n}.sqlite", MADE, host=f"node-{n}") for n in range(2)]
    found = analyse(read_trace(paths))
    assert not found.trace.aligned
    assert found.stragglers.basis == "durations"
    assert any("2 hosts" in note.text for note in found.notes)


@pytest.mark.parametrize(
    ("name", "rank"),
    [("r3.sqlite", 3), ("rank12.json.gz", 12), ("run-r0.sqlite", 0), ("rank_7.json", 7),
     ("resnet18.json", None), ("for2.json", None), ("trace.json", None)],
)  # fmt: skip
def test_rank_in_a_file_name(name, rank):
    assert rank_in_name(name) == rank


ROW = (1_234.5, 70.0, 20.0, 15.0, 12.0, 60.0, 50.0)


def test_ncu_units_and_thousands(tmp_path):
    path = write_ncu(
        tmp_path / "k.csv", [("void gemm<int>(T1 *)", ROW), ("void gemm<int>(T1 *)", ROW)]
    )
    [found] = read_ncu(path).values()
    assert found.name == "gemm<int>"
    assert found.calls == 2
    assert found.values[TIME] == pytest.approx(1234.5e-6)
    assert found.values[DRAM_BYTES] == pytest.approx(12e6)
    assert found.values[COMPUTE_SOL] == 70
    assert found.values[TENSOR] == 50


@pytest.mark.parametrize("nothing", ["n/a", "nan", "inf", ""])
def test_an_ncu_metric_without_a_number_is_absent(tmp_path, nothing):
    row = (ROW[0], 71.25, *ROW[2:])
    path = write_ncu(tmp_path / "k.csv", [("k", row), ("other", ROW)])
    path.write_text(path.read_text().replace("71.25", nothing))
    found = read_ncu(path)
    assert COMPUTE_SOL not in found["k"].values
    assert found["other"].values[COMPUTE_SOL] == 70


def test_ncu_metric_names_of_another_chip(tmp_path):
    names = {
        "gpu__time_duration.sum": "nsecond",
        "smsp__throughput.avg.pct_of_peak_sustained_elapsed": "%",
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": "%",
    }
    path = write_ncu(tmp_path / "k.csv", [("k", (10.0, 30.0, 0.0))], metrics=names, banner=False)
    assert read_ncu(path)["k"].values == pytest.approx({TIME: 1e-8, COMPUTE_SOL: 30, TENSOR: 0})


def test_bad_ncu_files(tmp_path):
    path = tmp_path / "k.csv"
    cases = {
        "==ERROR== ERR_NVGPUCTRPERM - no permission": ["not permitted", "counters unavailable"],
        "a,b\n1,2\n": ["no CSV of Nsight Compute", "--page raw"],
        '"ID","Kernel Name","Metric Name"\n"0","k","x"\n': ["raw page"],
        '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n': ["no kernel"],
        '"ID","Kernel Name","gpu__time_duration.sum"\n"","","fortnight"\n"0","k","1"\n': [
            "fortnight"
        ],
        '"ID","Kernel Name","gpu__time_duration.sum"\n"",""\n"0","k","1"\n': ["raw page"],
        '"ID","Kernel Name","dram__bytes.sum"\n"","","byte"\n"0","k","1"\n': ["SpeedOfLight"],
        '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","k"\n': ["truncated"],
    }
    for text, words in cases.items():
        path.write_text(text)
        with pytest.raises(ProfileError) as caught:
            read_ncu(path)
        for word in words:
            assert word in str(caught.value), text
