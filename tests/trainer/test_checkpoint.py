"""A run that was stopped and went on ends where an uninterrupted one ends, bit for bit."""

import dataclasses

import pytest
import torch

from tests.trainer.conftest import execute, make_spec
from trainer.checkpoint import Checkpoints
from trainer.contract import Dataset, Flag, Status, dumps
from trainer.failures import CheckpointError
from trainer.group import Group
from trainer.model import SmallResNet
from trainer.place import Place
from trainer.progress import Progress
from trainer.steps import Stepper

SPEC = make_spec(dataset=Dataset.SYNTHETIC, distributed=False, checkpoint_every=4)


def parts(folder, spec=SPEC):
    stepper = Stepper(spec, SmallResNet(3, 10), Group(spec, Place(), torch.device("cpu")))
    progress = Progress(
        epoch_sums=torch.zeros(2, dtype=torch.float64),
        counts=torch.zeros(20, dtype=torch.int32).numpy(),
        windows=[],
        epochs=[],
    )
    return Checkpoints(folder, spec, stepper.group), stepper, progress


def test_only_the_newest_two_are_kept_and_nothing_partial(tmp_path):
    checkpoints, stepper, progress = parts(tmp_path / "checkpoints")
    assert not checkpoints.load(stepper, progress)
    for progress.step in (4, 8, 12):
        checkpoints.save(stepper, progress)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-0000000008.pt", "step-0000000012.pt"]
    assert checkpoints.load(stepper, progress)
    assert progress.resumed_at == progress.step == 12


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
    checkpoints, stepper, progress = parts(tmp_path / "checkpoints")
    progress.step = 4
    checkpoints.save(stepper, progress)
    other, _, _ = parts(tmp_path / "checkpoints", dataclasses.replace(SPEC, seed=9))
    with pytest.raises(CheckpointError, match="belongs to spec"):
        other.load(stepper, progress)
    path = checkpoints.newest()[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load(stepper, progress)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_result(start_ranks, data, tmp_path):
    spec = make_spec(
        ranks=2,
        per_rank_batch=8,
        epochs=30,
        checkpoint_every=4,
        learning_rate=0.05,
        collective_timeout_s=10,
    )
    whole = execute(spec, tmp_path / "whole", data)
    assert whole.result.sane, whole.output

    ranks = start_ranks(spec, data)
    ranks.wait_for("epoch")
    for process in ranks.processes:
        process.kill()
    ranks.wait(10)
    assert not (ranks.run_dir / "result.json").exists()
    assert list((ranks.run_dir / "checkpoints").glob("step-*.pt"))

    resumed = execute(spec, ranks.run_dir, data)
    assert resumed.code == 0, resumed.output
    assert resumed.result.sane, resumed.result.sanity
    assert Flag.RESUMED in resumed.result.flags
    assert resumed.result.parameter_hash == whole.result.parameter_hash
    ours, theirs = resumed.result.epochs, whole.result.epochs
    assert [e.train_loss for e in ours] == [e.train_loss for e in theirs]
    assert [e.images for e in ours] == [e.images for e in theirs]
    assert resumed.metric("first_window_loss") == whole.metric("first_window_loss")
    assert resumed.metric("test_loss") == whole.metric("test_loss")

    rows = (ranks.run_dir / "epochs.csv").read_text().splitlines()
    assert [row.split(",")[8] for row in rows] == ["epoch", *map(str, range(30))]

    # A completed folder starts anew: nothing is resumed, nothing of the old run is counted.
    again = execute(spec, ranks.run_dir, data)
    assert Flag.RESUMED not in again.result.flags
    assert again.result.parameter_hash == whole.result.parameter_hash
    assert sum(e["event"] == "epoch" for e in again.events) == 30
    assert again.result.status is Status.COMPLETED
    assert dumps(again.result)
