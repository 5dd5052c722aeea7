"""What the trainer's loop costs: its images per second over those of a bare PyTorch DDP loop.

Run in the trainer's environment: ``python benchmarks/trainer_vs_bare_loop.py``.

Both loops live in the same processes on the same process group and train the same network from
the same weights on the same samples with the same learning rates; their losses are compared at
the end. The bare loop is the strictest that a person would write: the data set lies in memory,
already normalised, and nothing is counted but the loss. The trainer's side is all of ``Loop``:
reading, normalising, counting samples, and, inside the time taken here, the bookkeeping at window
ends (reductions, metrics.jsonl, epoch records) that its own windows leave out.

Order A B B A in blocks, so that drift cancels; each process measures several blocks. Reported is
the ratio of total images per second over all blocks, with a 95 % bootstrap interval over blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES, TEST_SAMPLES = 1437, 64  # as many training samples as the digits have
WINDOW_STEPS = 30  # as in the demo
# What launch() gives every run on a CPU (trainyard.launch.environment).
LAUNCH = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
WARMUP_STEPS = 20
GLOBAL_BATCH = 64
LEARNING_RATE = 0.02
DIGEST = "b" * 64


def measure(
    *, ranks: int = 1, launches: int = 5, blocks: int = 8, python: str = sys.executable
) -> dict[str, Any]:
    """Return the ratio on *ranks* ranks: *launches* fresh process groups of *blocks* ABBA blocks.

    Keys: ratio, ci95 (low, high), blocks, ranks, trainer_images_per_second,
    bare_images_per_second, largest_loss_difference (relative). Raises ``RuntimeError`` when a
    launch fails or the two loops did not compute the same losses.
    """
    rows: list[dict[str, float]] = []
    differences = []
    for number in range(launches):
        made = _launch(ranks, blocks, python)
        rows += made["blocks"]
        differences.append(made["loss_difference"])
        print(
            f"ranks {ranks}, launch {number + 1} of {launches}: {_ratio(made['blocks']):.4f}",
            file=sys.stderr,
            flush=True,
        )
    if max(differences) > 0.02:  # noqa: PLR2004  rounding grows with steps; other work differs more
        raise RuntimeError(f"the loops computed different losses: {differences}")
    low, high = _bootstrap(rows)
    return {
        "ratio": _ratio(rows),
        "ci95": [low, high],
        "blocks": len(rows),
        "ranks": ranks,
        "trainer_images_per_second": _rate(rows, "trainer"),
        "bare_images_per_second": _rate(rows, "bare"),
        "largest_loss_difference": max(differences),
    }


def _rate(rows: list[dict[str, float]], side: str) -> float:
    return sum(row["images"] for row in rows) / sum(row[f"{side}_s"] for row in rows)


def _ratio(rows: list[dict[str, float]]) -> float:
    return _rate(rows, "trainer") / _rate(rows, "bare")


def _bootstrap(rows: list[dict[str, float]], resamples: int = 4000) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the ratio over resampled blocks."""
    chance = random.Random(20_240)
    ratios = [_ratio(chance.choices(rows, k=len(rows))) for _ in range(resamples)]
    cuts = statistics.quantiles(ratios, n=40)
    return cuts[0], cuts[-1]


def _launch(ranks: int, blocks: int, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [python]
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += [__file__, "--worker", folder, "--ranks", str(ranks), "--blocks", str(blocks)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), **LAUNCH}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        answer = Path(folder) / "answer.json"
        if done.returncode or not answer.exists():
            raise RuntimeError(f"launch failed with {done.returncode}: {done.stderr[-2000:]}")
        made: dict[str, Any] = json.loads(answer.read_text())
        return made


def _worker(folder: Path, ranks: int, blocks: int) -> None:
    from trainer.startup import without_compiler

    without_compiler()
    from trainer import run as running
    from trainer.contract import Dataset, RunSpec
    from trainer.data import load
    from trainer.group import Group, choose_device
    from trainer.journal import Journal
    from trainer.place import Place
    from trainer.provenance import Git

    spec = RunSpec(
        name="bench",
        dataset=Dataset.DIGITS,
        dataset_digest=DIGEST,
        ranks=ranks,
        per_rank_batch=GLOBAL_BATCH // ranks,
        global_batch=GLOBAL_BATCH,
        steps=WARMUP_STEPS + 2 * blocks * WINDOW_STEPS,
        warmup_steps=WARMUP_STEPS,
        window_steps=WINDOW_STEPS,
        learning_rate=LEARNING_RATE,
        evaluate=False,
    )
    place = Place.from_environment(os.environ)
    device = choose_device(spec, place)
    running.prepare_torch(spec, device)
    group = Group(spec, place, device)
    data_folder = folder / f"data-{place.rank}"
    _write_data(data_folder)
    data = load(spec, data_folder)
    journal = Journal(run_dir=folder, place=place, git=Git(), spec=spec)
    run = running.Run(spec, journal, group, data)
    loop = run.loop()
    bare = BareLoop(spec, data, device, place.rank, loop.total_steps, run.plan)
    rows = _blocks(run, loop.run(run.batches()), bare, blocks)
    ours, theirs = (float(group.sum(sums)[0]) for sums in (run.stepper.sums, bare.sums))
    if place.first:
        text = json.dumps({"blocks": rows, "loss_difference": abs(ours - theirs) / theirs})
        (folder / "answer.json").write_text(text)
    group.close()


def _blocks(run: Any, ours: Iterator[Any], bare: Any, blocks: int) -> list[dict[str, float]]:
    """Return images and seconds of both sides for each block, measured in the order A B B A."""
    group, plan = run.group, run.plan
    next(ours)  # warm-up
    bare.advance(WARMUP_STEPS)
    rows = []
    for block in range(blocks):
        first = WARMUP_STEPS + 2 * block * WINDOW_STEPS
        seconds = {"trainer": 0.0, "bare": 0.0}
        for side in ("trainer", "bare", "bare", "trainer"):
            group.synchronize()
            group.barrier()
            begin = time.perf_counter()
            if side == "trainer":
                next(ours)
            else:
                bare.advance(WINDOW_STEPS)
            group.synchronize()
            mine = time.perf_counter() - begin
            seconds[side] += max(row[0] for row in group.rows([mine]))
        rows.append(
            {
                "images": plan.images_between(first, first + 2 * WINDOW_STEPS),
                "trainer_s": seconds["trainer"],
                "bare_s": seconds["bare"],
            }
        )
    return rows


class BareLoop:
    """The reference: DistributedDataParallel, SGD, cross-entropy, and nothing around them."""

    def __init__(self, spec: Any, data: Any, device: Any, rank: int, total: int, plan: Any) -> None:
        """Hold the whole training set on *device*, normalised; sample order as in *plan*."""
        import numpy as np
        import torch
        from torch.nn.parallel import DistributedDataParallel

        from trainer import model
        from trainer.data import Normaliser
        from trainer.steps import learning_rate

        everything = torch.from_numpy(np.array(data.train.images[:]))
        self.images = Normaliser(spec, device)(everything)
        self.labels = torch.from_numpy(data.train.labels.copy()).to(device)
        network = model.build(spec.model, data.channels, data.classes, spec.seed).to(device)
        self.model = DistributedDataParallel(
            network,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            lr=spec.learning_rate,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
        self.sums = torch.zeros(1, dtype=torch.float64, device=device)
        # The order and the rates of all steps, made before anything is timed.
        self.indices = [
            torch.from_numpy(plan.share(step, rank)[0]).to(device) for step in range(total)
        ]
        self.weights = [spec.ranks / plan.images(step) for step in range(total)]
        self.rates = [learning_rate(spec, step, total) for step in range(total)]
        self.step = 0

    def advance(self, steps: int) -> None:
        """Train the next *steps* steps."""
        from torch.nn import functional

        for step in range(self.step, self.step + steps):
            indices = self.indices[step]
            self.optimizer.param_groups[0]["lr"] = self.rates[step]
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.model(self.images[indices])
            loss = functional.cross_entropy(logits, self.labels[indices], reduction="sum")
            (loss * self.weights[step]).backward()
            self.optimizer.step()
            self.sums += loss.detach()
        self.step += steps


def _write_data(folder: Path) -> None:
    import numpy as np

    chance = np.random.default_rng(5)
    folder.mkdir()
    for split, count in (("train", SAMPLES), ("test", TEST_SAMPLES)):
        images = chance.integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 10)
    described = {"name": "digits", "digest": DIGEST, "classes": list("0123456789")}
    (folder / "dataset.json").write_text(json.dumps(described))


def main() -> None:
    """Measure on one and two ranks and print one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, help="only this number of ranks")
    parser.add_argument("--launches", type=int, default=5, help="fresh process groups each")
    parser.add_argument("--blocks", type=int, default=8, help="ABBA blocks in each")
    options = parser.parse_args()
    if options.worker:
        _worker(options.worker, options.ranks, options.blocks)
        return
    measured = [
        measure(ranks=ranks, launches=options.launches, blocks=options.blocks)
        for ranks in ([options.ranks] if options.ranks else [1, 2])
    ]
    print(json.dumps({"trainer_vs_bare_loop": measured}))


if __name__ == "__main__":
    main()
