"""Runs that go wrong leave a result with phase and reason, promptly, and never hang."""

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tests.trainer.conftest import execute, make_spec
from trainer import failures
from trainer.contract import Dataset, Device, Model, Phase, Status, dumps
from trainer.last_words import Words, summary

LONG = {"epochs": 0, "steps": 1_000_000, "learning_rate": 0.001}


def failed(run, phase: Phase, *says: str, code: int = 1) -> None:
    assert run.code == code, run.output
    result = run.result
    assert result.status is Status.FAILED
    assert result.phase is phase
    for text in says:
        assert text in result.reason
    assert not result.sane
    assert run.events[-1]["event"] == "result"


def copy_of(data, folder):
    shutil.copytree(data, folder)
    return folder


def cut_short(folder):
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:5000])


def other_archive(folder):
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"digest": "e" * 64}))


def wrong_label(folder):
    np.save(folder / "test_labels.npy", np.full(61, 10))


def wrong_shape(folder):
    np.save(folder / "train_images.npy", np.zeros((150, 8, 8, 1), dtype=np.uint8))


def pickled(folder):
    np.save(folder / "train_images.npy", np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_short, "damaged or cut short"),
        (other_archive, f"digest {'e' * 64} is not the spec's dataset_digest {'d' * 64}"),
        (lambda folder: (folder / "test_images.npy").unlink(), "No such file"),
        (lambda folder: (folder / "dataset.json").unlink(), "No such file"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not a description"),
        (wrong_label, "holds 10 to 10; dataset.json lists 10 classes"),
        (wrong_shape, "expected (150, 32, 32, 1)"),
        (pickled, "damaged or cut short"),
    ],
)
def test_damaged_data_is_named(damage, says, data, tmp_path):
    from trainer.data import load

    folder = copy_of(data, tmp_path / "digits")
    damage(folder)
    with pytest.raises(failures.DataError) as caught:
        load(make_spec(), folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


def test_no_data_folder_is_named():
    from trainer.data import load

    with pytest.raises(failures.DataError, match="needs --data"):
        load(make_spec(), None)


def test_loading_real_data_accepts_them(data):
    from trainer.data import load

    loaded = load(make_spec(), data)
    assert (len(loaded.train), len(loaded.test), loaded.classes, loaded.channels) == (
        150,
        61,
        10,
        1,
    )


@pytest.mark.slow
def test_data_failure_of_a_run(data, tmp_path):
    folder = copy_of(data, tmp_path / "digits")
    other_archive(folder)
    failed(execute(make_spec(), tmp_path / "run", folder), Phase.DATA, "is not the spec's")


@pytest.mark.slow
def test_nan_loss_on_two_ranks(data, tmp_path):
    spec = make_spec(ranks=2, per_rank_batch=8, learning_rate=1e20, epochs=30)
    run = execute(spec, tmp_path / "run", data)
    failed(run, run.result.phase, "loss is", "training diverged", "Lower learning_rate")
    assert run.result.phase in {Phase.WARMUP, Phase.TRAIN}


@pytest.mark.slow
def test_out_of_memory(tmp_path):
    """A real failed allocation: the address space is limited to what torch needs and a little."""
    limit = (
        "import resource, runpy, sys; "
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); "
        "sys.argv = sys.argv[3:]; runpy.run_module('trainer', run_name='__main__')"
    )
    spec = make_spec(
        dataset=Dataset.SYNTHETIC,
        dataset_digest="",
        model=Model.RESNET18,
        per_rank_batch=20_000,
        epochs=1,
    )
    run = execute(spec, tmp_path / "run", None, prefix=(sys.executable, "-c", limit))
    failed(run, Phase.WARMUP, "out of memory", "Choose a smaller per_rank_batch")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others(victim, start_ranks, data):
    """Bare gloo, no torchrun to clean up: the survivor notices by itself and writes the result."""
    spec = make_spec(ranks=2, per_rank_batch=8, **LONG)
    ranks = start_ranks(spec, data)
    ranks.wait_for("window")
    ranks.processes[victim].kill()
    begin = time.monotonic()
    codes = ranks.wait(spec.collective_timeout_s + 15)
    assert time.monotonic() - begin < spec.collective_timeout_s
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    result = _result(ranks.run_dir)
    assert result.status is Status.FAILED
    assert result.phase is Phase.TRAIN
    assert f"rank {victim} ended without a word" in result.reason
    assert "lost contact with another rank" in result.reason
    assert result.windows or victim == 0  # what was measured is kept


@pytest.mark.slow
def test_a_killed_rank_under_torchrun(start_ranks, data, tmp_path):
    """torchrun tells the survivor to stop; the record says which phase, whoever comes first."""
    spec = make_spec(ranks=2, per_rank_batch=8, **LONG)
    killer = (
        "import os, signal, subprocess, sys, threading, time, pathlib\n"
        "def kill():\n"
        "    path = pathlib.Path(sys.argv[-3]) / 'metrics.jsonl'\n"
        "    while not (path.exists() and 'window' in path.read_text()): time.sleep(0.05)\n"
        "    ranks = subprocess.run(['ps', '--no-headers', '-o', 'pid', '--ppid',"
        " str(child.pid)], capture_output=True, text=True).stdout.split()\n"
        "    os.kill(int(ranks[-1]), signal.SIGKILL)\n"
        "child = subprocess.Popen(sys.argv[1:])\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "sys.exit(child.wait())\n"
    )
    run = execute(spec, tmp_path / "run", data, prefix=(sys.executable, "-c", killer))
    assert run.code == 1, run.output
    result = run.result
    assert result.status is Status.FAILED
    assert result.phase is Phase.TRAIN
    assert "stopped by SIGTERM" in result.reason or "lost contact" in result.reason


@pytest.mark.slow
def test_a_rank_that_fails_by_itself_is_the_cause(start_ranks, data, tmp_path):
    """Rank 1 finds damaged data, rank 0 only loses its partner."""
    damaged = copy_of(data, tmp_path / "damaged")
    cut_short(damaged)
    spec = make_spec(ranks=2, per_rank_batch=8, **LONG)
    swap = f"import sys; sys.argv = [*sys.argv[3:-1], {str(damaged)!r}]; import runpy; "
    swap += "runpy.run_module('trainer', run_name='__main__', alter_sys=True)"
    ranks = start_ranks(spec, data, {1: [sys.executable, "-c", swap]})
    assert ranks.wait(90) == [1, 1]
    result = _result(ranks.run_dir)
    assert result.phase is Phase.DATA
    assert "rank 1: " in result.reason
    assert "damaged or cut short" in result.reason


@pytest.mark.slow
def test_a_rank_that_never_comes(start_ranks, data):
    spec = make_spec(ranks=2, per_rank_batch=8, collective_timeout_s=3, **LONG)
    ranks = start_ranks(spec, data, {1: [sys.executable, "-c", "import sys; sys.exit(7)"]})
    assert ranks.wait(60) == [1, 7]
    result = _result(ranks.run_dir)
    assert result.phase is Phase.SETUP
    assert "rank 1 ended without a word" in result.reason


@pytest.mark.slow
def test_sigterm_is_recorded_with_what_was_measured(start_ranks, data):
    ranks = start_ranks(make_spec(**LONG), data)
    ranks.wait_for("window")
    ranks.processes[0].terminate()
    assert ranks.wait(10) == [1]
    result = _result(ranks.run_dir)
    assert "stopped by SIGTERM" in result.reason
    assert result.phase is Phase.TRAIN
    assert result.windows


def _result(run_dir):
    from trainer.contract import RunResult, loads

    return loads(RunResult, (run_dir / "result.json").read_bytes())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a JSON document"),
        (dumps(make_spec()).replace("resnet18_small", "resnet99"), "must be one of resnet18"),
        (dumps(make_spec()).replace('"global_batch": 16', '"global_batch": 15'), "= 16"),
        (None, "No such file"),
    ],
)
def test_bad_spec_exits_2_before_torch_is_imported(text, says, tmp_path):
    begin = time.monotonic()
    spec, run_dir = make_spec(), tmp_path / "run"
    program = (
        "import sys, pathlib; path = pathlib.Path(sys.argv[-2]); "
        + ("path.unlink(); " if text is None else f"path.write_text({text!r}); ")
        + "from trainer.cli import main; sys.argv = sys.argv[4:]\n"
        "import os, atexit; real = os._exit\n"
        "def leave(code): assert 'torch' not in sys.modules; real(code)\n"
        "os._exit = leave\nsys.exit(main(sys.argv))"
    )
    run = execute(spec, run_dir, None, prefix=(sys.executable, "-c", program))
    failed(run, Phase.LAUNCH, says, code=2)
    assert says in run.output
    assert time.monotonic() - begin < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": Device.CUDA}, "needs GPU 0 and the node shows 0"),
        ({"precision": "fp16"}, "needs a GPU and this run is on the CPU"),
    ],
)
def test_what_the_node_lacks_exits_2(changes, says, data, tmp_path):
    from trainer.contract import Precision

    if "precision" in changes:
        changes = {"precision": Precision.FP16}
    failed(execute(make_spec(**changes), tmp_path / "run", data), Phase.SETUP, says, code=2)


def test_other_number_of_ranks_exits_2(tmp_path, data):
    """A spec for two ranks started as one process."""
    from trainer.place import Place

    with pytest.raises(failures.BadInputError, match="--nproc-per-node 2"):
        Place().check(make_spec(ranks=2, per_rank_batch=8))
    with pytest.raises(failures.BadInputError, match="1 ranks on each of 2 nodes"):
        Place(world=2, local_world=2).check(make_spec(ranks=2, nodes=2, per_rank_batch=8))
    with pytest.raises(failures.BadInputError, match="WORLD_SIZE = 'two'"):
        Place.from_environment({"RANK": "0", "WORLD_SIZE": "two"})


def test_usage_errors_exit_2(capsys):
    from trainer.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["only-a-spec.json"])
    assert caught.value.code == 2
    assert "run_dir" in capsys.readouterr().err


def words(rank, reason, *, cause, phase=Phase.TRAIN):
    return Words(rank=rank, phase=phase, reason=reason, cause=cause)


@pytest.mark.parametrize(
    ("heard", "world", "reason", "phase"),
    [
        ([words(0, "x", cause=True)], 1, "x", Phase.TRAIN),
        (
            [words(0, "lost", cause=False), words(1, "boom", cause=True, phase=Phase.DATA)],
            2,
            "rank 1: boom",
            Phase.DATA,
        ),
        (
            [words(0, "lost", cause=False)],
            3,
            "rank 1, 2 ended without a word (killed?); rank 0: lost",
            Phase.TRAIN,
        ),
    ],
)
def test_summary_puts_causes_first(heard, world, reason, phase):
    assert summary(heard, world) == (reason, phase)


@pytest.mark.parametrize(
    ("error", "consequence", "says"),
    [
        (MemoryError(), False, "out of memory: MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            False,
            "out of mem",
        ),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), True, "lost contact"),
        (RuntimeError("mat1 and mat2 shapes"), False, "RuntimeError: mat1"),
        (failures.LossError("loss is nan"), False, "loss is nan"),
        (KeyboardInterrupt(), False, "KeyboardInterrupt"),
    ],
)
def test_reasons(error, consequence, says):
    assert failures.is_consequence(error) is consequence
    assert failures.describe(error).startswith(says)


def test_result_write_is_exclusive_and_atomic(tmp_path):
    from trainer.files import write_atomic, write_exclusive

    path = tmp_path / "result.json"
    assert write_exclusive(path, b"first")
    assert not write_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    write_atomic(path, b"third")
    assert path.read_bytes() == b"third"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
