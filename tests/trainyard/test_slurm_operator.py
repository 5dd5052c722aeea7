"""``TrainOperator`` on Slurm: one job for a run whatever happens, and no verdict without proof."""

from __future__ import annotations

import pytest

from tests.fakes.slurm_campaign import Guillotine, Killed, MortalTransport, mortal_journal
from tests.fakes.slurm_jobs import Life, killed
from tests.fakes.slurm_site import SlurmScene
from trainer.contract import Flag
from trainyard.errors import (
    ConfigurationError,
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.slurm.errors import SubmissionRefusedError
from trainyard.slurm.site import SlurmSite, Tier


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    monkeypatch.setattr("trainyard.ingest._publish", lambda settings, paths, row: row)
    return lambda **options: SlurmScene(tmp_path, **options)


@pytest.fixture
def scene(make):
    return make()


class TestSubmission:
    def test_submits_once_and_waits_in_the_shared_poller(self, scene):
        deferred = scene.execute()
        assert type(deferred.trigger).__name__ == "SlurmJobTrigger"
        assert len(scene.cluster.jobs) == 1
        told = scene.context["task_state_store"].get("slurm_job")
        assert told["job_id"] == 100
        assert told["name"] == scene.names()[0]
        assert scene.context["ti"].pushed["slurm_job"] == told
        first = scene.backend().job(scene.paths).first_at
        assert deferred.trigger.deadline == first + 3600 + 24 * 3600

    def test_another_try_adopts_the_job_and_does_not_extend_its_time(self, scene):
        first, second = scene.execute(), scene.execute(try_number=1)
        assert len(scene.cluster.jobs) == 1
        assert second.trigger.deadline == first.trigger.deadline

    @pytest.mark.parametrize("lost", ["nothing", "journal", "folder"])
    def test_a_worker_killed_at_any_step_costs_no_second_job(self, make, lost):
        import shutil

        step = 0
        while True:
            step += 1
            scene = make()
            shutil.rmtree(scene.paths.run_dir, ignore_errors=True)
            guillotine = Guillotine(step)
            try:
                with mortal_journal(guillotine):
                    scene.execute(transport=MortalTransport(scene.cluster, guillotine))
            except Killed:
                pass
            else:
                break
            if lost == "journal":
                scene.paths.journal.unlink(missing_ok=True)
            elif lost == "folder":
                shutil.rmtree(scene.paths.run_dir, ignore_errors=True)
            again = scene.execute(try_number=2)
            assert again.trigger.owner == 2
            assert len(scene.cluster.jobs) == 1, f"killed at step {step}"
        assert step > 8

    def test_a_refusal_is_told_and_not_tried_again(self, make):
        scene = make(slurm=SlurmSite(partition="moon"))
        scene.cluster.do_sbatch = lambda arguments: _refused()
        with pytest.raises(SubmissionRefusedError, match="partition") as error:
            scene.execute()
        decision = scene.operator().retry_policy.evaluate(error.value, 1, 2)
        assert decision.action.value == "fail"
        assert not scene.cluster.jobs

    def test_a_controller_that_is_down_costs_a_try_and_no_job(self, scene):
        scene.cluster.controller_down = True
        with pytest.raises(UnavailableError):
            scene.execute()
        scene.cluster.controller_down = False
        scene.execute(try_number=2)
        assert len(scene.cluster.jobs) == 1

    def test_the_tier_is_in_the_script(self, make):
        from dataclasses import replace

        from trainyard.study import launch_of

        scene = make(slurm=SlurmSite(tiers=(Tier(name="training", qos="high", partition="fast"),)))
        study = replace(scene.study, tier="training")
        script = launch_of(study.run(0)).script
        assert "#SBATCH --qos=high" in script
        assert "#SBATCH --partition=fast" in script


def _refused():
    from tests.fakes.slurm_faults import failed

    text = "Batch job submission failed: Invalid partition name specified"
    return failed(f"sbatch: error: {text}")


class TestEnds:
    def test_completed_needs_slurm_the_wrapper_and_the_result(self, scene):
        scene.execute()
        scene.leave_result()
        scene.later()
        assert scene.complete() == scene.paths.run_id
        assert (scene.row().status, scene.row().exit_code) == ("completed", 0)
        assert scene.row().result.flags == ()

    @pytest.mark.parametrize(
        ("life", "error", "words"),
        [
            (Life(end="FAILED", exit_code=3), RunFailedError, "exit code 3"),
            (killed("TIMEOUT"), RunFailedError, "TIMEOUT"),
            (killed("OUT_OF_MEMORY"), RunFailedError, "OUT_OF_MEMORY"),
            (killed("CANCELLED"), RunCancelledError, "CANCELLED"),
            (Life(end="COMPLETED", exit_code=None), RunLostError, "no exit code"),
            (Life(end="COMPLETED", exit_code=2), RunLostError, "wrapper wrote exit code 2"),
        ],
    )
    def test_every_other_end_is_an_error_with_its_reason(self, scene, life, error, words):
        scene.lives(life)
        scene.execute()
        scene.leave_result()
        scene.later()
        scene.settle()
        with pytest.raises(error, match=words):
            scene.complete()
        assert scene.row().status != "completed"

    def test_unknown_is_never_success(self, scene):
        scene.execute()
        scene.leave_result()
        scene.later(5)
        scene.cluster.controller_down = True
        with pytest.raises(UnavailableError, match="has not ended yet"):
            scene.complete()
        assert scene.row() is None
        assert not scene.paths.recorded.exists()

    def test_what_was_requeued_is_kept_and_flagged(self, scene):
        scene.lives(killed("PREEMPTED", requeued=True), Life(wait_s=130.0))
        scene.cluster.partitions["main"] = "REQUEUE"
        scene.execute()
        scene.later(20)
        scene.backend().observe(scene.paths)
        scene.leave_result()
        scene.later()
        scene.settle()
        scene.complete()
        row = scene.row()
        assert row.status == "completed"
        assert row.result.flags == (Flag.PREEMPTED,)
        assert "requeued" in row.result.flag_details[0]

    def test_a_job_that_can_never_start_is_cancelled_with_the_fix(self, scene):
        scene.lives(Life(wait_s=10**6, reason="PartitionTimeLimit"))
        scene.execute()
        with pytest.raises(RunCancelledError, match="lower the time limit"):
            scene.complete(stuck="will never start: PartitionTimeLimit; lower the time limit")
        assert scene.cluster.jobs[0].cancelled is not None


def test_ranks_are_spread_over_as_few_nodes_as_hold_them(make):
    from dataclasses import replace

    from trainyard.placement import on_nodes

    scene = make()
    site = replace(scene.study.site, cores=4)
    spec = scene.run.planned.spec
    for ranks, threads, nodes in ((1, 1, 1), (4, 1, 1), (8, 1, 2), (8, 2, 4), (6, 3, 6), (5, 2, 5)):
        sized = replace(
            spec,
            ranks=ranks,
            threads_per_rank=threads,
            loader_workers=0,
            global_batch=spec.per_rank_batch * ranks,
            distributed=True,
        )
        assert on_nodes(sized, site).nodes == nodes
    with pytest.raises(ConfigurationError, match="tier = 'x'"):
        scene.study.site.tier("x")
