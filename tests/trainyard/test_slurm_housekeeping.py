"""Around the jobs: is the cluster ready, and do jobs and waiting tasks fit together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.slurm_jobs import Life
from tests.fakes.slurm_site import SlurmScene
from trainyard import housekeeping
from trainyard.environment_slurm import cluster_checks
from trainyard.slurm.site import SlurmSite, Tier
from trainyard.slurm.transport import Completed
from trainyard.store import Verdict


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    return lambda **options: SlurmScene(tmp_path, **options)


@pytest.fixture
def scene(make):
    made = make()
    made.lives(Life(run_s=10**6))
    made.execute()
    made.later(10)
    return made


def everybody(tasks):
    return list(tasks)


def nobody(tasks):
    return []


class TestReconciliation:
    def test_what_fits_together_is_no_finding(self, scene):
        stock = housekeeping.take_stock(scene.study.site, scene.backend(), everybody)
        assert (stock.orphans, stock.jobless, stock.matched) == ((), (), 1)
        assert [check.verdict for check in housekeeping.checks(stock)] == [Verdict.PASSED] * 3

    def test_a_job_without_a_task_is_reported_and_left_alone(self, scene):
        stock = housekeeping.take_stock(scene.study.site, scene.backend(), nobody)
        (orphan,) = stock.orphans
        assert orphan.job_id == 100
        text = housekeeping.table(stock)
        assert "Jobs without a task: 1" in text
        assert "clean_up" in text
        assert scene.cluster.commands["scancel"] == 0
        assert housekeeping.checks(stock)[0].verdict == Verdict.WARNING

    def test_on_request_it_is_cancelled(self, scene):
        backend = scene.backend()
        stock = housekeeping.take_stock(scene.study.site, backend, nobody)
        cleaned = housekeeping.clean_up(stock, backend)
        assert cleaned.cancelled == (100,)
        assert scene.cluster.jobs[0].cancelled is not None
        assert "100  cancelled" in housekeeping.table(cleaned)
        assert housekeeping.checks(cleaned)[0].measured == "0 of 1 left"

    def test_what_cannot_be_cancelled_is_said(self, scene):
        backend = scene.backend()
        stock = housekeeping.take_stock(scene.study.site, backend, nobody)
        scene.cluster.controller_down = True
        cleaned = housekeeping.clean_up(stock, backend)
        assert cleaned.cancelled == ()
        assert "Not complete: " in housekeeping.table(cleaned)

    def test_a_task_whose_job_is_gone_is_reported(self, scene):
        scene.cluster.jobs.clear()
        scene.paths.job.unlink()
        stock = housekeeping.take_stock(scene.study.site, scene.backend(), everybody)
        (task,) = stock.jobless
        assert task.task == "study/manual__1/run_on_slurm/0"

    def test_a_task_that_is_just_submitting_is_no_finding(self, scene):
        scene.cluster.jobs.clear()
        scene.paths.job.unlink()
        scene.paths.journal.unlink()
        stock = housekeeping.take_stock(scene.study.site, scene.backend(), everybody)
        assert stock.jobless == ()

    def test_jobs_of_others_are_not_ours(self, scene):
        scene.cluster.run(["sbatch", "--parsable", "--job-name=somebody-elses"])
        stock = housekeeping.take_stock(scene.study.site, scene.backend(), everybody)
        assert stock.orphans == ()


class TestReadiness:
    def findings(self, scene, site=None):
        from trainyard.environment import _guarded

        site = site or scene.study.site
        checks = cluster_checks(site, scene.access)
        del checks["shared run folders"]  # the fake cluster has no file system
        return {name: _guarded(check, scene.settings, site) for name, check in checks.items()}

    def test_a_good_cluster(self, make):
        found = self.findings(make(slurm=SlurmSite(partition="main")))
        assert {one.verdict for one in found.values()} == {Verdict.PASSED}
        assert found["slurm nodes"].measured == "8 of 8 nodes up"

    def test_where_commands_run_elsewhere_the_trainer_is_looked_for_there(self, make):
        asked = []

        class LoginNode:
            def run(self, argv, stdin=None, timeout=30):
                asked.append(argv[0])
                return Completed(rc=1, stdout="", stderr="No module named 'torch'", elapsed=0)

        scene = make()
        assert "trainer" not in cluster_checks(scene.study.site, scene.access)
        far = replace(scene.access, remote=True, transport=LoginNode)
        site = replace(scene.study.site, python="/only/there/python")
        finding = cluster_checks(site, far)["trainer"](scene.settings, site)
        assert asked == ["/only/there/python"]
        assert finding.verdict is Verdict.FAILED
        assert "No module named 'torch'" in finding.measured

    def test_without_accounting_it_warns(self, make):
        found = self.findings(make(accounting=False))
        assert found["slurm accounting"].verdict is Verdict.WARNING

    def test_unknown_names_fail_with_the_choices(self, make):
        scene = make()
        for slurm, words in (
            (SlurmSite(partition="moon"), "choose from cancelled, main, requeued"),
            (SlurmSite(tiers=(Tier(name="a", partition="mars"),)), "partition = 'mars'"),
            (SlurmSite(qos="best"), "choose from normal, urgent"),
        ):
            site = replace(scene.study.site, slurm=slurm)
            finding = self.findings(scene, site)["slurm partitions"]
            assert finding.verdict is Verdict.FAILED
            assert words in finding.fix

    def test_a_dead_controller_fails_with_its_words(self, make):
        scene = make()
        scene.cluster.controller_down = True
        found = self.findings(scene)
        assert found["slurm controller"].verdict is Verdict.FAILED
        assert "Unable to contact" in found["slurm controller"].fix
