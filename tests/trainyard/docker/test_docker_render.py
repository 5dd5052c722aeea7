"""Containers of a run: the exact bodies, every optional field of a Docker site on and off."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from tests.fakes.runs import SPEC
from tests.goldens import check
from trainer.contract import Dataset, Device
from trainyard.docker.render import Facts, container_name, docker_of, user_of
from trainyard.docker.site import Containers, DockerSite, Pull
from trainyard.errors import ConfigurationError
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.placement import spread
from trainyard.presets import PRESETS, Preset
from trainyard.sites import Launcher, Site
from trainyard.suites import SUITES

MINIMAL = Site(
    name="laptop",
    launcher=Launcher.DOCKER,
    python="/opt/trainer/bin/python",
    runs_dir="/data/runs",
    data_dir="/data/sets",
    cores=2,
    docker=DockerSite(image="trainyard/trainer:dev"),
)
FULL = replace(
    MINIMAL,
    name="workstation",
    cores=64,
    gpus_per_node=4,
    network_interface="eth0",
    environment=(("NCCL_DEBUG", "WARN"),),
    largest_ranks=8,
    run_timeout_s=60,
    docker=DockerSite(
        image="registry.example/trainer@sha256:" + "ab" * 32,
        host="tcp://docker-proxy:2375",
        connection="docker_default",
        pull=Pull.MISSING,
        network="trainyard-ranks",
        port=30000,
        mounts=("trainyard-runs:/data/runs", "/scratch:/scratch:ro"),
        shm_bytes=8 << 30,
        tmp_bytes=4 << 30,
        memory_bytes=64 << 30,
        cpus=16.5,
        cpuset="0-15",
        ulimits=("memlock=-1", "nofile=1024:4096"),
        gpus=("1", "GPU-5c1b", "3"),
        user="1000:100",
        pids=1024,
        log_bytes=1 << 20,
    ),
)
APART = replace(FULL, docker=replace(FULL.docker, containers=Containers.PER_RANK))
DIGITS = replace(
    SPEC, name="digits-n1", dataset=Dataset.DIGITS, dataset_digest="0123456789abcdef" * 4
)
TWO = replace(DIGITS, name="digits-n2", ranks=2, global_batch=128, threads_per_rank=4)
FOUR = replace(TWO, name="digits-n4", ranks=4, nodes=2, global_batch=256, device=Device.CPU)
ALONE = replace(SPEC, name="base-n1", distributed=False)
PATHS = RunPaths(root=Path("/data/runs"), run_id="study.run_on_cpu.0-12345678")
FACTS = Facts(image_digest="trainyard/trainer@sha256:" + "cd" * 32, user="1000:1000")


def shown(spec, site) -> str:
    made = launch(spec, site, PATHS)
    text = f"argv: {shlex.join(made.argv)}\n\nscript:\n{made.script}"
    for creation in made.containers:
        body = json.dumps(creation.body(FACTS), indent=1, sort_keys=True)
        text += f"\ncontainer {creation.index}, {creation.name}:\n{body}\n"
    return text


@pytest.mark.parametrize(
    ("name", "spec", "site"),
    [
        ("minimal-base-without-ddp", ALONE, MINIMAL),
        ("minimal-digits-two-ranks", TWO, MINIMAL),
        ("full-digits-two-ranks", TWO, FULL),
        ("full-digits-container-per-rank", replace(TWO, nodes=2), APART),
        ("full-digits-two-nodes-of-two-on-cores", FOUR, FULL),
    ],
)
def test_golden(name, spec, site):
    check(f"docker/{name}.txt", shown(spec, site))


def test_the_full_site_has_every_optional_field_on_and_the_minimal_one_off():
    for field in fields(DockerSite):
        if field.default is not MISSING and field.name != "containers":
            assert getattr(FULL.docker, field.name) != field.default, field.name
            assert getattr(MINIMAL.docker, field.name) == field.default, field.name


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("none", "localhost"),
        ("bridge", "ty-study-run-on-cpu-0-12345678-"),
        ("host", None),
        ("container:vpn", None),
    ],
)
def test_a_container_has_a_host_name_of_its_own_only_in_a_network_of_its_own(network, name):
    site = replace(MINIMAL, docker=replace(MINIMAL.docker, network=network))
    found = launch(ALONE, site, PATHS).containers[0].body(FACTS).get("Hostname")
    assert found == name or (name and found.startswith(name))


def host_of(spec, site, index=0):
    return launch(spec, site, PATHS).containers[index].body(FACTS)["HostConfig"]


class TestConfinement:
    @pytest.mark.parametrize("site", [MINIMAL, FULL], ids=["minimal", "full"])
    def test_no_site_loosens_it(self, site):
        host = host_of(ALONE, site)
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["ReadonlyRootfs"]
        assert host["Init"]
        assert host["RestartPolicy"] == {"Name": "no"}
        assert not {"Privileged", "CapAdd", "Devices", "PidMode", "IpcMode"} & set(host)

    def test_a_container_sees_its_own_run_and_the_data_to_read(self):
        targets = {m["Target"]: m["ReadOnly"] for m in host_of(DIGITS, MINIMAL)["Mounts"]}
        assert targets == {str(PATHS.run_dir): False, "/data/sets": True}
        synthetic = {m["Target"] for m in host_of(SPEC, MINIMAL)["Mounts"]}
        assert synthetic == {str(PATHS.run_dir)}

    def test_a_mount_of_the_site_takes_the_place_of_a_bind(self):
        found = host_of(DIGITS, FULL)["Mounts"]
        assert [(m["Type"], m["Source"], m["Target"]) for m in found] == [
            ("bind", "/data/sets", "/data/sets"),
            ("volume", "trainyard-runs", "/data/runs"),
            ("bind", "/scratch", "/scratch"),
        ]

    def test_the_proxy_of_the_stack_lets_them_through(self, tmp_path):
        """What is rendered here must be what the socket proxy permits (trainyard.dockerproxy)."""
        from trainyard.dockerproxy.create import creation
        from trainyard.dockerproxy.policy import Policy

        policy = Policy(
            images=("trainyard/trainer:*", "registry.example/trainer@*"),
            networks=("none", "trainyard-ranks"),
            volumes=("trainyard-*",),
            binds_below=(str(tmp_path),),
            gpus=True,
        )
        paths = RunPaths(root=tmp_path / "runs", run_id="run")
        paths.run_dir.mkdir(parents=True)
        (tmp_path / "sets").mkdir()
        here = {"runs_dir": str(paths.root), "data_dir": str(tmp_path / "sets")}
        mounts = (f"trainyard-runs:{paths.root}",)
        full = replace(FULL, docker=replace(FULL.docker, mounts=mounts), **here)
        for spec, site in ((TWO, replace(MINIMAL, **here)), (TWO, full), (FOUR, full)):
            for made in launch(spec, site, paths).containers:
                body = made.body(FACTS)
                kept = creation(json.loads(json.dumps(body)), policy).body["HostConfig"]
                assert {name: kept[name] for name in body["HostConfig"]} == body["HostConfig"]


class TestGpus:
    def test_each_container_gets_the_gpus_of_its_ranks(self):
        spec = replace(TWO, nodes=2)
        asked = [host_of(spec, APART, index)["DeviceRequests"] for index in range(2)]
        assert [request[0]["DeviceIDs"] for request in asked] == [["1"], ["GPU-5c1b"]]

    def test_a_run_on_cores_asks_for_none(self):
        assert "DeviceRequests" not in host_of(replace(TWO, device=Device.CPU), FULL)
        assert "DeviceRequests" not in host_of(TWO, MINIMAL)

    def test_limits_are_nvidias_advice_unless_the_site_says_otherwise(self):
        advised = replace(FULL, docker=replace(FULL.docker, ulimits=()))
        names = {limit["Name"]: limit["Hard"] for limit in host_of(TWO, advised)["Ulimits"]}
        assert names == {"memlock": -1, "stack": 64 << 20}
        assert "Ulimits" not in host_of(TWO, MINIMAL)

    def test_more_ranks_than_gpus_are_refused(self):
        spec = replace(TWO, ranks=4, global_batch=256)
        with pytest.raises(ConfigurationError, match=r"ranks = 4: site 'workstation' has 3 GPUs"):
            launch(spec, FULL, PATHS)


class TestNames:
    def test_a_name_is_a_host_name_and_tells_installations_apart(self):
        long = RunPaths(root=Path("/a"), run_id="Ümläut_" + "x" * 100)
        for paths in (PATHS, long):
            name = container_name(paths, 511)
            assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name), name
        elsewhere = RunPaths(root=Path("/other"), run_id=PATHS.run_id)
        assert container_name(PATHS, 0) != container_name(elsewhere, 0)
        assert container_name(PATHS, 0) != container_name(PATHS.attempt(2), 0)

    def test_labels_name_the_first_rank_of_each_container(self):
        made = launch(FOUR, FULL, PATHS).containers
        bodies = [creation.body(FACTS) for creation in made]
        assert [body["Labels"]["trainyard.rank"] for body in bodies] == ["0", "2"]
        assert {body["Labels"]["trainyard.spec_id"] for body in bodies} == {FOUR.spec_id}
        assert [creation.name[-2:] for creation in made] == ["-0", "-2"]


class TestSeveralContainers:
    def test_a_container_per_rank_makes_each_rank_a_node(self):
        parameters = replace(PRESETS[Preset.DEMO](), dataset=Dataset.SYNTHETIC)
        plan = SUITES["scaling"](parameters, 0)
        apart, together = spread(plan, APART), spread(plan, FULL)
        assert max(run.spec.ranks for run in plan.runs) > 1
        assert all(run.spec.nodes == run.spec.ranks for run in apart.runs)
        assert together == plan

    def test_they_need_a_network_in_which_names_resolve(self):
        for network in ("none", "bridge", "host"):
            site = replace(APART, docker=replace(APART.docker, network=network))
            with pytest.raises(ConfigurationError, match="docker network create"):
                launch(replace(TWO, nodes=2), site, PATHS)

    def test_ranks_without_a_node_each_are_refused(self):
        with pytest.raises(ConfigurationError, match="nodes = 1, ranks = 2"):
            launch(TWO, APART, PATHS)


def test_the_user_is_the_folders_owner_unless_named():
    assert user_of(MINIMAL.docker, 12, 34) == "12:34"
    assert user_of(FULL.docker, 12, 34) == "1000:100"
    assert user_of(replace(MINIMAL.docker, user=""), 12, 34) == ""


def test_another_site_has_no_containers():
    site = replace(MINIMAL, launcher=Launcher.PROCESS, docker=None)
    with pytest.raises(ConfigurationError, match="choose a Docker site"):
        docker_of(site)
    assert launch(SPEC, site, PATHS).containers == ()
