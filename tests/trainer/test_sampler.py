"""Every sample exactly once an epoch, whatever the sizes; the same batches at any rank count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.sampler import MicroSteps, Plan, evaluation_share

SIZES = {
    "samples": st.integers(1, 400),
    "per_rank_batch": st.integers(1, 40),
    "ranks": st.integers(1, 9),
    "accumulation": st.integers(1, 4),
    "seed": st.integers(0, 5),
}
PLANS = st.builds(Plan, **SIZES)


@given(PLANS, st.integers(0, 3))
def test_every_sample_exactly_once_an_epoch(plan, epoch):
    first = epoch * plan.steps_per_epoch
    seen = [
        micro
        for rank in range(plan.ranks)
        for step in range(first, first + plan.steps_per_epoch)
        for micro in plan.share(step, rank)
    ]
    assert sorted(np.concatenate(seen)) == list(range(plan.samples))


@given(PLANS, st.integers(0, 2000))
def test_shares_of_a_step_match_its_size_and_each_other(plan, step):
    shares = [plan.share(step, rank) for rank in range(plan.ranks)]
    sizes = [sum(len(micro) for micro in share) for share in shares]
    assert sum(sizes) == plan.images(step)
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes) >= 1  # rank 0 owns the batch-norm statistics
    assert {len(share) for share in shares} == {plan.micro_steps(step)}
    assert max(len(micro) for share in shares for micro in share) <= plan.per_rank_batch
    assert 1 <= plan.micro_steps(step) <= plan.accumulation


@given(PLANS, st.integers(0, 200))
def test_a_step_trains_the_same_samples_on_any_number_of_ranks(plan, step):
    alone = Plan(samples=plan.samples, per_rank_batch=plan.global_batch, ranks=1, seed=plan.seed)
    together = [micro for rank in range(plan.ranks) for micro in plan.share(step, rank)]
    np.testing.assert_array_equal(np.concatenate(together), alone.share(step, 0)[0])


@given(PLANS, st.integers(0, 30), st.integers(0, 30))
def test_a_resumed_sampler_yields_the_rest(plan, a, b):
    first, last = sorted((a, b))
    whole = list(MicroSteps(plan=plan, rank=0, first=0, last=last))
    rest = MicroSteps(plan=plan, rank=0, first=first, last=last)
    assert len(rest) == len(list(rest))
    tail = whole[len(whole) - len(rest) :]
    for (epoch, indices), (expected_epoch, expected) in zip(rest, tail, strict=True):
        assert epoch == expected_epoch
        np.testing.assert_array_equal(indices, expected)


@given(PLANS)
def test_images_between_counts_every_epoch_whole(plan):
    assert plan.images_between(0, 2 * plan.steps_per_epoch) == 2 * plan.samples
    ends = [step for step in range(2 * plan.steps_per_epoch) if plan.ends_epoch(step)]
    assert ends == [plan.steps_per_epoch - 1, 2 * plan.steps_per_epoch - 1]


def test_epochs_and_seeds_differ():
    plan = Plan(samples=100, per_rank_batch=10, ranks=1, seed=0)
    other = Plan(samples=100, per_rank_batch=10, ranks=1, seed=1)
    first = plan.order(0).copy()
    assert (first != plan.order(1)).any()
    assert (first != other.order(0)).any()
    np.testing.assert_array_equal(first, plan.order(0))


@given(st.integers(0, 500), st.integers(1, 9))
def test_evaluation_shares_are_a_partition(samples, ranks):
    shares = [evaluation_share(samples, rank, ranks) for rank in range(ranks)]
    assert [index for share in shares for index in share] == list(range(samples))
