"""Containers through Airflow, on a real engine and a real stack; all scenarios go on side by side.

The trainer is a stand-in but in the last test, which trains in the trainer's own image.
"""

from __future__ import annotations

import os

import pytest

from tests.e2e.docker_lab import PROGRAM, DockerLab
from tests.e2e.labs import RUNS, until
from trainyard.docker.files import ContainerFiles
from trainyard.paths import run_id_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, docker_client, shell_image, images):
    from trainyard.local.stack import running_stack
    from trainyard.local.state import toml

    folder = tmp_path_factory.mktemp("docker-stack")
    control = folder / "control"
    control.mkdir()
    program = control / "python"
    program.write_text(PROGRAM.format(control=control))
    program.chmod(0o755)
    place = {"launcher": "docker", "cores": len(os.sched_getaffinity(0)), "largest_ranks": 4}
    place |= {"runs_dir": str(folder / "runs"), "data_dir": str(folder / "data")}
    shell = {"image": shell_image, "mounts": [f"{control}:{control}"], "memory_bytes": 64 << 20}
    kinds = {
        "boxes": (place | {"python": str(program)}, shell),
        "brief": (place | {"python": str(program), "run_timeout_s": 8}, shell),
        "trainer": (place | {"python": "/opt/trainer/bin/python"}, {"image": images["trainer"]}),
    }
    tables = "".join(
        f"[{name}]\n{toml(site)}[{name}.docker]\n{toml(docker)}"
        for name, (site, docker) in kinds.items()
    )
    with running_stack(folder, more_sites=tables) as stack:
        until(lambda: stack.api.knows_dag("train"))
        pool = {"name": "trainyard_cpu", "slots": 32, "include_deferred": True}
        stack.api.call("PATCH", "/api/v2/pools/trainyard_cpu", json=pool)
        made = DockerLab(docker_client, stack, control)
        yield made
        for scene in docker_client.containers.list(all=True, filters={"label": "trainyard.run_id"}):
            if scene.labels.get("trainyard.run_dir", "").startswith(str(folder)):
                scene.remove(force=True)


@pytest.fixture(scope="module")
def scenes(lab):
    """All runs, started together."""
    return {
        "good": lab.start("good", "wait"),
        "failing": lab.start("failing", "fail"),
        "hungry": lab.start("hungry", "hungry"),
        "marked": lab.start("marked", "wait"),
        "cleared": lab.start("cleared", "wait"),
        "run-failed": lab.start("run-failed", "wait"),
        "slow": lab.start("slow", "wait", site="brief"),
        "removed": lab.start("removed", "wait"),
        "surviving": lab.start("surviving", "wait"),
    }


def test_a_run_in_a_container_is_stored_with_what_it_used(lab, scenes, shell_image):
    good = scenes["good"].until_training()
    assert good.container().status == "running"
    good.go()
    assert good.until("success", "failed") == "success"
    row = good.row()
    assert (row.status, row.launcher, row.exit_code) == ("completed", "docker", 0)
    (use,) = good.usage()
    assert (use["state"], use["cluster"]) == ("exit code 0", "docker")
    assert use["node_list"] == good.names()[0]
    assert use["elapsed_s"] > 0
    assert good.container() is None, "its evidence is on disk: it is not needed any more"
    assert good.starts() == [lab.client.images.get(shell_image).id]


def test_what_the_container_says_is_in_the_tasks_log_while_it_trains(scenes):
    surviving = scenes["surviving"].until_training()
    until(lambda: "said while it trains" in surviving.log(), 60, "a line of the container")
    assert "phase train" in surviving.log()
    assert surviving.state() == "deferred"


def test_a_failure_is_told_with_exit_code_and_log(scenes):
    failing = scenes["failing"]
    assert failing.until("success", "failed") == "failed"
    row = failing.row()
    assert (row.status, row.exit_code) == ("failed", 1)
    assert "the trainer gave up" in row.log_tail
    assert len(failing.starts()) == 1, "the same run would end the same way"


def test_too_little_memory_is_told(scenes):
    hungry = scenes["hungry"]
    assert hungry.until("success", "failed") == "failed"
    assert "ran out of memory (its limit of 67108864 bytes)" in hungry.row().reason


def test_marking_the_task_as_failed_removes_the_container(scenes):
    marked = scenes["marked"].until_training()
    marked.api.call("PATCH", marked.path, json={"new_state": "failed"})
    marked.until_gone()
    assert marked.state() == "failed"
    assert "killed in Airflow" in marked.paths.cancelled.read_text()


def test_failing_the_dag_run_removes_the_container(scenes):
    scene = scenes["run-failed"].until_training()
    scene.api.call("PATCH", f"{RUNS}/run-failed", json={"state": "failed"})
    scene.until_gone()


def test_clearing_the_task_removes_the_container_and_starts_another(scenes):
    cleared = scenes["cleared"].until_training()
    cleared.clear()
    cleared.until_gone()
    cleared.until_training(times=2)
    cleared.go(attempt=2)
    assert cleared.until("success", "failed") == "success"
    assert cleared.row().status == "cancelled"
    assert cleared.row(2).status == "completed"
    assert cleared.names() != cleared.names(2)


def test_a_run_that_takes_too_long_is_ended_and_fails(scenes):
    slow = scenes["slow"]
    assert slow.until("success", "failed") == "failed"
    assert "stopped after 8 s" in slow.row().reason
    assert slow.container() is None


def test_a_container_removed_by_hand_is_lost_and_its_run_tried_again(scenes):
    removed = scenes["removed"].until_training()
    removed.container().remove(force=True)
    removed.until_training(times=2)
    removed.go(attempt=2)
    ended = removed.until("success", "failed")
    assert ended == "success", [removed.row(number).reason for number in (1, 2)]
    assert removed.row().status == "lost"
    assert "removed before its end was recorded" in removed.row().reason
    assert removed.row(2).status == "completed"


def test_a_container_survives_triggerer_and_scheduler_and_is_adopted(lab, scenes):
    surviving = scenes["surviving"].until_training()
    before = surviving.container().id
    killed = [lab.stack.services.kill(f"airflow-{part}") for part in ("triggerer", "scheduler")]
    for service in killed:
        lab.stack.services.start(service)
    assert surviving.container().id == before
    surviving.go()
    assert surviving.until("success", "failed", seconds=150) == "success"
    assert len(surviving.starts()) == 1
    ended = ContainerFiles(paths=surviving.paths, index=0).read_ended()
    assert ended.container_id == before
    assert surviving.container() is None


def test_the_real_trainer_in_its_image_says_which_image_it_was(lab, images):
    conf = {"site": "trainer", "dataset": "synthetic", "ranks": [2], "steps": 20,
            "threads_per_rank": 1, "loader_workers": 0}  # fmt: skip
    lab.stack.api.trigger("train", conf, "real")
    assert lab.end_of("train", "real", 150) == "success"
    row = lab.row(run_id_of("train", "real", "run_on_cpu", 0))
    assert (row.status, row.launcher) == ("completed", "docker")
    assert row.result.provenance.image == lab.client.images.get(images["trainer"]).id
