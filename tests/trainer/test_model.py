"""Cost on paper: the analytic counts against published ones."""

import subprocess
import sys

import pytest
import torch

from tests.trainer.conftest import environment
from trainer.contract import Model
from trainer.model import build, forward_macs, parameter_count, training_flops


def test_resnet18_counts_match_the_published_ones():
    network = build(Model.RESNET18, 3, 10, seed=0)
    assert sum(forward_macs(network, 3)) == pytest.approx(555.4e6, rel=1e-3)
    assert training_flops(network, 3) == pytest.approx(3.329e9, rel=1e-3)
    assert parameter_count(network) == pytest.approx(11.17e6, rel=1e-3)
    assert network.conv1.stride == (1, 1)
    assert network.conv1.kernel_size == (3, 3)
    assert isinstance(network.maxpool, torch.nn.Identity)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", Model)
def test_models_take_grey_and_colour(model, channels):
    network = build(model, channels, 7, seed=0).eval()
    assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, b = build(Model.RESNET18_SMALL, 1, 10, 5), build(Model.RESNET18_SMALL, 1, 10, 5)
    other = build(Model.RESNET18_SMALL, 1, 10, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, other.head.weight)


def test_small_model_treats_samples_apart():
    network = build(Model.RESNET18_SMALL, 1, 10, 0).train()
    images = torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-4, atol=1e-5)


def test_counting_leaves_the_network_as_it_was():
    network = build(Model.RESNET18, 3, 10, seed=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    training_flops(network, 3)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.slow
def test_an_eager_run_imports_no_compiler_and_a_compiling_one_gets_the_real_one():
    program = """
import sys, torch, torch.distributed as dist
from trainer.startup import without_compiler
without_compiler()
model = torch.nn.Linear(2, 2)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
ddp = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
for _ in range(2):
    optimizer.zero_grad(); ddp(torch.ones(1, 2)).sum().backward(); optimizer.step()
with ddp.no_sync():
    ddp(torch.ones(1, 2)).sum().backward()
assert "sympy" not in sys.modules and "torch._inductor" not in sys.modules, "compiler imported"
dist.destroy_process_group()
import torch._inductor
real = torch.compile(model, backend="eager")
assert torch.equal(real(torch.ones(1, 2)), model(torch.ones(1, 2)))
assert sys.modules["torch._dynamo"].__file__, "stand-in still there"
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
