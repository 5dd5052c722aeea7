"""The mathematics of a step: exact gradients for any division of a batch, and true determinism."""

import copy
import itertools

import numpy as np
import pytest
import torch

from tests.trainer.conftest import make_spec
from trainer import evaluate
from trainer.contract import Dataset, Precision
from trainer.data import BatchReader, loader, synthetic
from trainer.group import Group
from trainer.model import SmallResNet
from trainer.place import Place
from trainer.sampler import MicroSteps, Plan
from trainer.segments import segments
from trainer.steps import Stepper, learning_rate

DATA = synthetic((70, 30))


def make_stepper(**changes) -> Stepper:
    spec = make_spec(dataset=Dataset.SYNTHETIC, distributed=False, **changes)
    torch.manual_seed(3)
    return Stepper(spec, SmallResNet(3, 10), Group(spec, Place(), torch.device("cpu")))


def train(stepper: Stepper, steps: int) -> list[float]:
    """Train *steps* steps and return the mean loss of each."""
    spec = stepper.spec
    plan = Plan(
        samples=70, per_rank_batch=spec.per_rank_batch, ranks=1, accumulation=spec.accumulation
    )
    reader = BatchReader(DATA.train, spec)
    batches = iter(loader(reader, MicroSteps(plan=plan, rank=0, first=0, last=steps), spec, False))
    losses, before = [], 0.0
    for step in range(steps):
        stepper.step(batches, plan.micro_steps(step), plan.images(step), 0.05)
        after = float(stepper.sums[0])
        losses.append((after - before) / plan.images(step))
        before = after
    return losses


def test_accumulation_computes_the_same_step():
    whole, parts = make_stepper(per_rank_batch=32), make_stepper(per_rank_batch=8, accumulation=4)
    np.testing.assert_allclose(train(whole, 3), train(parts, 3), rtol=2e-5)


def test_step_equals_plain_pytorch_on_the_mean_loss():
    stepper = make_stepper(per_rank_batch=32)
    plain = copy.deepcopy(stepper.network)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    plan = Plan(samples=70, per_rank_batch=32, ranks=1)
    train(stepper, 3)  # the third step is the tail of 6 samples
    for step in range(3):
        indices = plan.share(step, 0)[0]
        images = torch.from_numpy(DATA.train.images[indices]).permute(0, 3, 1, 2).float()
        logits = plain((images / 255 - 0.5) / 0.25)
        loss = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(DATA.train.labels[indices])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, theirs in zip(stepper.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_stand_in_sample_leaves_gradients_and_sums_alone():
    stepper = make_stepper(per_rank_batch=8)
    reader = BatchReader(DATA.train, stepper.spec)
    stand_in = reader[0, np.array([], dtype=np.int64)]
    real = reader[0, np.arange(8)]
    other = copy.deepcopy(stepper.network.state_dict())
    stepper.step(iter([real, stand_in]), 2, 8, 0.1)
    with_stand_in = evaluate.parameter_hash(stepper.network)
    assert float(stepper.sums[0]) > 0
    assert stepper.sums[1] <= 8
    again = make_stepper(per_rank_batch=8)
    again.network.load_state_dict(other)
    again.step(iter([real]), 1, 8, 0.1)
    assert evaluate.parameter_hash(again.network) == with_stand_in
    assert float(again.sums[0]) == float(stepper.sums[0])


def test_same_seed_same_parameters_bit_for_bit():
    first, second = make_stepper(per_rank_batch=16), make_stepper(per_rank_batch=16)
    assert train(first, 4) == train(second, 4)
    assert evaluate.parameter_hash(first.network) == evaluate.parameter_hash(second.network)


def test_bf16_and_channels_last_stay_near_fp32():
    reference = train(make_stepper(per_rank_batch=32), 3)
    changed = train(
        make_stepper(per_rank_batch=32, precision=Precision.BF16, channels_last=True), 3
    )
    np.testing.assert_allclose(changed, reference, rtol=0.03)
    assert changed != reference


def test_channels_last_reaches_model_and_input():
    stepper = make_stepper(channels_last=True)
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    assert stepper.normalise(images).is_contiguous(memory_format=torch.channels_last)
    weight = stepper.network.features[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = make_stepper()
    assert plain.normalise(images).is_contiguous()


def test_hash_sees_one_bit():
    stepper = make_stepper()
    before = evaluate.parameter_hash(stepper.network)
    with torch.no_grad():
        bias = stepper.network.head.bias
        bias[0] = torch.nextafter(bias[0], torch.tensor(1.0))
    assert evaluate.parameter_hash(stepper.network) != before


def test_evaluation_does_not_depend_on_the_division(monkeypatch):
    stepper = make_stepper()
    group = stepper.group
    whole = evaluate.evaluate(stepper, DATA.test, group)
    monkeypatch.setattr(evaluate, "BATCH", 7)
    parts = evaluate.evaluate(stepper, DATA.test, group)
    assert parts[0] == whole[0]
    assert parts[1] == pytest.approx(whole[1], rel=1e-6)
    assert stepper.network.training


def test_learning_rate_rises_then_falls_to_nearly_zero():
    spec = make_spec(learning_rate=0.2)
    rates = [learning_rate(spec, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.2, rel=0.02)
    assert rates.index(max(rates)) in (14, 15)
    assert rates[0] == pytest.approx(0.2 / 15)
    assert rates[-1] < 0.005
    assert all(rate > 0 for rate in rates)
    assert all(a >= b for a, b in itertools.pairwise(rates[15:]))
    assert learning_rate(spec, 0, 1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("first", "total", "warmup", "window", "expected"),
    [
        (
            0,
            100,
            10,
            20,
            [(0, 10, 0), (10, 30, 1), (30, 50, 1), (50, 70, 1), (70, 90, 1), (90, 100, 0)],
        ),
        (0, 20, 0, 20, [(0, 20, 1)]),
        (0, 5, 10, 20, [(0, 5, 0)]),
        (40, 70, 10, 20, [(40, 50, 0), (50, 70, 1)]),
        (70, 70, 10, 20, []),
    ],
)
def test_segments(first, total, warmup, window, expected):
    found = [(p.first, p.last, p.timed) for p in segments(first, total, warmup, window)]
    assert found == expected
