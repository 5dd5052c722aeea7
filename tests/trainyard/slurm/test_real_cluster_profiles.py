"""Profiles of a job's ranks on two nodes of a real cluster, gathered in its one run folder."""

from __future__ import annotations

import pytest

from tests.fixtures.profiles import NSIGHT, assert_every_rank_is_profiled, profiled_spec
from tests.requirements import need
from tests.trainyard.slurm.observe import wait_for
from tests.trainyard.slurm.test_real_cluster_launch import TRAINER, site_of
from trainer.contract import Profiler, RunResult, dumps, loads
from trainyard.launch import launch
from trainyard.paths import RunPaths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("profiler", [Profiler.TORCH, Profiler.NSYS])
def test_the_ranks_of_two_nodes_leave_a_profile_each(slurm_cluster, tmp_path, profiler):
    need(TRAINER.exists(), "trainer environment (make setup-test)")
    spec = profiled_spec(profiler, nodes=2)
    setup = ()
    if profiler is Profiler.NSYS:
        # Elsewhere than the trainer would look: found by what the site sets before the command.
        (tmp_path / "nsight").symlink_to(next(NSIGHT.glob("*/bin")).parent)
        setup = (f"export PATH={tmp_path}/nsight/bin:$PATH",)
    site = site_of(tmp_path, str(TRAINER), setup=setup)
    paths = RunPaths(root=tmp_path / "runs", run_id="profiled")
    paths.run_dir.mkdir(parents=True)
    paths.spec.write_text(dumps(spec))
    paths.script.write_text(launch(spec, site, paths).script)
    job = slurm_cluster.ask("sbatch", "--parsable", str(paths.script))
    wait_for(slurm_cluster, job, "COMPLETED", "FAILED", "TIMEOUT", seconds=240)
    assert_every_rank_is_profiled(paths, spec)
    assert len(loads(RunResult, paths.result.read_text()).machines) == 2
