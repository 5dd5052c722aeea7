"""What a container may be: every rule, and that nothing unknown passes."""

from __future__ import annotations

import copy
import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import GOLDEN
from trainyard.dockerproxy.body import strict_json
from trainyard.dockerproxy.create import MANAGED, creation
from trainyard.dockerproxy.hostconfig import HOST_FIELDS
from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError

POLICY = Policy(
    images=("trainyard/trainer:*", "nvcr.io/nvidia/pytorch:25.*-py3"),
    networks=("trainyard-ranks", "none"),
    volumes=("trainyard_runs", "cache-*"),
    binds=("/srv/data",),
    memory_bytes=2**33,
    shm_bytes=2**31,
    pids=512,
)
GPUS = Policy(images=POLICY.images, networks=POLICY.networks, gpus=True, runtimes=("nvidia",))


def body(host=None, **config):
    """The body of an ordinary container, with changes."""
    host = {"NetworkMode": "trainyard-ranks", **(host or {})}
    return {"Image": "trainyard/trainer:dev", "Cmd": ["true"], "HostConfig": host, **config}


def made(given, policy=POLICY):
    return creation(copy.deepcopy(given), policy).body


def refusal(given, policy=POLICY):
    with pytest.raises(RefusedError) as caught:
        creation(copy.deepcopy(given), policy)
    assert caught.value.field in str(caught.value)
    assert caught.value.rule in str(caught.value)
    return caught.value


VOLUME = {"Type": "volume", "Source": "trainyard_runs", "Target": "/r"}
BIND = {"Type": "bind", "Source": "/srv/data", "Target": "/d"}
TMPFS = {"Type": "tmpfs", "Target": "/t"}
LIMIT = {"Name": "memlock", "Soft": -1, "Hard": -1}
GPU = {"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu", "compute", "utility"]]}


@pytest.mark.parametrize(
    "host",
    [
        pytest.param({}, id="plain"),
        pytest.param({"NetworkMode": "none"}, id="no network"),
        pytest.param({"Binds": ["trainyard_runs:/r", "/srv/data:/d:ro"]}, id="binds"),
        pytest.param({"Mounts": [VOLUME, BIND, TMPFS]}, id="mounts"),
        pytest.param({"Mounts": [{**VOLUME, "ReadOnly": True, "Source": "cache-1"}]}, id="pattern"),
        pytest.param({"Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=64m"}}, id="tmpfs"),
        pytest.param(
            {"Privileged": False, "CapAdd": None, "Devices": [], "PidMode": ""}, id="empty"
        ),
        pytest.param({"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"]}, id="dropped"),
        pytest.param({"Memory": 2**33, "MemorySwap": 2**33, "PidsLimit": 512}, id="at the limits"),
        pytest.param({"ShmSize": 2**31, "Ulimits": [LIMIT], "Init": True}, id="shared memory"),
        pytest.param({"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}, id="no restart"),
        pytest.param({"LogConfig": {"Type": "json-file", "Config": {"max-file": "3"}}}, id="log"),
        pytest.param({"CpusetCpus": "0-3,8", "NanoCpus": 10**9, "CpuShares": 1024}, id="cpu"),
        pytest.param({"IpcMode": "private", "CgroupnsMode": "private"}, id="own namespaces"),
        pytest.param({"SomethingOfTomorrow": None, "OtherOfTomorrow": []}, id="unknown but empty"),
    ],
)
def test_what_runs_need_is_permitted(host):
    assert made(body(host))["HostConfig"]["CapDrop"] == ["ALL"]


def test_gpus_are_permitted_where_the_policy_says_so():
    assert made(body({"DeviceRequests": [GPU], "Runtime": "nvidia"}), GPUS)["HostConfig"][
        "DeviceRequests"
    ] == [GPU]
    assert refusal(body({"DeviceRequests": [GPU]})).field == "HostConfig.DeviceRequests"
    assert refusal(body(Env=["NVIDIA_VISIBLE_DEVICES=all"])).field == "Env NVIDIA_VISIBLE_DEVICES"


def test_what_is_left_out_gets_the_policys_limits():
    host = made(body())["HostConfig"]
    assert host["Memory"] == 2**33
    assert host["PidsLimit"] == 512
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    whole = made(body())
    assert whole["User"] == "10001:10001"
    assert whole["Labels"] == {MANAGED: "true"}
    assert creation(body({"Memory": 5}), POLICY).filled == [
        "HostConfig.PidsLimit", "HostConfig.CapDrop", "HostConfig.SecurityOpt", "User",
    ]  # fmt: skip


MOUNT = "HostConfig.Mounts[0]"
HOST_ATTACKS = {
    "privileged": ({"Privileged": True}, "HostConfig.Privileged"),
    "privileged as text": ({"Privileged": "true"}, "HostConfig.Privileged"),
    "other case": ({"privileged": True}, "HostConfig.privileged"),
    "long s folds to s": ({"U\u017fernsMode": "host"}, "HostConfig.U\u017fernsMode"),
    "root bound": ({"Binds": ["/:/host"]}, "HostConfig.Binds[0]"),
    "root bound read-only": ({"Binds": ["/:/host:ro"]}, "HostConfig.Binds[0]"),
    "socket bound": ({"Binds": ["/var/run/docker.sock:/s"]}, "HostConfig.Binds[0]"),
    "socket mounted": (
        {"Mounts": [{**BIND, "Source": "/run/docker.sock"}]}, f"{MOUNT}.Source"),
    "dots": ({"Binds": ["/srv/data/../../etc:/e"]}, "HostConfig.Binds[0]"),
    "doubled slash": ({"Binds": ["//srv/data:/e"]}, "HostConfig.Binds[0]"),
    "below a bind": ({"Binds": ["/srv/data/x:/e"]}, "HostConfig.Binds[0]"),
    "beside a bind": ({"Binds": ["/srv/database:/e"]}, "HostConfig.Binds[0]"),
    "relative bind": ({"Binds": ["../etc:/e"]}, "HostConfig.Binds[0]"),
    "foreign volume": ({"Binds": ["trainyard_postgres:/d"]}, "HostConfig.Binds[0]"),
    "shared propagation": ({"Binds": ["/srv/data:/d:rshared"]}, "HostConfig.Binds[0]"),
    "mount propagation": (
        {"Mounts": [{**BIND, "BindOptions": {"Propagation": "shared"}}]},
        f"{MOUNT}.BindOptions.Propagation"),
    "volume that is a bind": (
        {"Mounts": [{**VOLUME, "VolumeOptions": {"DriverConfig": {
            "Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}}}]},
        f"{MOUNT}.VolumeOptions.DriverConfig"),
    "volume of a disk": (
        {"Mounts": [{**VOLUME, "VolumeOptions": {"DriverConfig": {
            "Options": {"type": "ext4", "device": "/dev/sda1"}}}}]},
        f"{MOUNT}.VolumeOptions.DriverConfig"),
    "nameless volume": ({"Mounts": [{"Type": "volume", "Target": "/x"}]}, f"{MOUNT}.Source"),
    "other mount type": ({"Mounts": [{**BIND, "Type": "npipe"}]}, f"{MOUNT}.Type"),
    "cluster volume": ({"Mounts": [{**VOLUME, "Type": "cluster"}]}, f"{MOUNT}.Type"),
    "image mount": ({"Mounts": [{**VOLUME, "Type": "image"}]}, f"{MOUNT}.Type"),
    "mount without type": ({"Mounts": [{"Source": "/", "Target": "/x"}]}, f"{MOUNT}.Type"),
    "tmpfs with devices": ({"Tmpfs": {"/t": "dev"}}, "HostConfig.Tmpfs./t"),
    "volumes of others": ({"VolumesFrom": ["postgres"]}, "HostConfig.VolumesFrom"),
    "volume driver": ({"VolumeDriver": "rclone"}, "HostConfig.VolumeDriver"),
    "host pid": ({"PidMode": "host"}, "HostConfig.PidMode"),
    "pid of another": ({"PidMode": "container:postgres"}, "HostConfig.PidMode"),
    "host ipc": ({"IpcMode": "host"}, "HostConfig.IpcMode"),
    "ipc of another": ({"IpcMode": "container:postgres"}, "HostConfig.IpcMode"),
    "host uts": ({"UTSMode": "host"}, "HostConfig.UTSMode"),
    "host users": ({"UsernsMode": "host"}, "HostConfig.UsernsMode"),
    "host cgroups": ({"CgroupnsMode": "host"}, "HostConfig.CgroupnsMode"),
    "host network": ({"NetworkMode": "host"}, "HostConfig.NetworkMode"),
    "network of another": ({"NetworkMode": "container:x"}, "HostConfig.NetworkMode"),
    "control network": ({"NetworkMode": "trainyard"}, "HostConfig.NetworkMode"),
    "default bridge": ({"NetworkMode": "default"}, "HostConfig.NetworkMode"),
    "all capabilities": ({"CapAdd": ["ALL"]}, "HostConfig.CapAdd"),
    "one capability": ({"CapAdd": ["SYS_PTRACE"]}, "HostConfig.CapAdd"),
    "capabilities kept": ({"CapDrop": ["MKNOD"]}, "HostConfig.CapDrop"),
    "device": (
        {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]},
        "HostConfig.Devices"),
    "device rule": ({"DeviceCgroupRules": ["c *:* rwm"]}, "HostConfig.DeviceCgroupRules"),
    "gpu": ({"DeviceRequests": [GPU]}, "HostConfig.DeviceRequests"),
    "no seccomp": ({"SecurityOpt": ["seccomp=unconfined"]}, "HostConfig.SecurityOpt"),
    "no apparmor": ({"SecurityOpt": ["apparmor:unconfined"]}, "HostConfig.SecurityOpt"),
    "no label": ({"SecurityOpt": ["label=disable"]}, "HostConfig.SecurityOpt"),
    "unconfined paths": ({"SecurityOpt": ["systempaths=unconfined"]}, "HostConfig.SecurityOpt"),
    "new privileges": ({"SecurityOpt": ["no-new-privileges:false"]}, "HostConfig.SecurityOpt"),
    "unmasked": ({"MaskedPaths": []}, "HostConfig.MaskedPaths"),
    "writable proc": ({"ReadonlyPaths": []}, "HostConfig.ReadonlyPaths"),
    "runtime": ({"Runtime": "unsafe"}, "HostConfig.Runtime"),
    "cgroup": ({"CgroupParent": "/"}, "HostConfig.CgroupParent"),
    "sysctl": ({"Sysctls": {"kernel.shm_rmid_forced": "1"}}, "HostConfig.Sysctls"),
    "links": ({"Links": ["postgres:db"]}, "HostConfig.Links"),
    "hosts": ({"ExtraHosts": ["registry:10.0.0.1"]}, "HostConfig.ExtraHosts"),
    "port": ({"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}, "HostConfig.PortBindings"),
    "all ports": ({"PublishAllPorts": True}, "HostConfig.PublishAllPorts"),
    "for ever": ({"RestartPolicy": {"Name": "always"}}, "HostConfig.RestartPolicy.Name"),
    "log elsewhere": (
        {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "tcp://evil"}}},
        "HostConfig.LogConfig.Type"),
    "log option": (
        {"LogConfig": {"Type": "json-file", "Config": {"env": "SECRET"}}},
        "HostConfig.LogConfig.Config.env"),
    "memory": ({"Memory": 2**33 + 1}, "HostConfig.Memory"),
    "memory without end": ({"Memory": -1}, "HostConfig.Memory"),
    "swap without end": ({"MemorySwap": -1}, "HostConfig.MemorySwap"),
    "memory as truth": ({"Memory": True}, "HostConfig.Memory"),
    "pids": ({"PidsLimit": -1}, "HostConfig.PidsLimit"),
    "shared memory": ({"ShmSize": 2**40}, "HostConfig.ShmSize"),
    "no oom killer": ({"OomKillDisable": True}, "HostConfig.OomKillDisable"),
    "never the victim": ({"OomScoreAdj": -1000}, "HostConfig.OomScoreAdj"),
    "group": ({"GroupAdd": ["0"]}, "HostConfig.GroupAdd"),
    "storage": ({"StorageOpt": {"size": "1T"}}, "HostConfig.StorageOpt"),
    "annotation": ({"Annotations": {"run.oci.x": "y"}}, "HostConfig.Annotations"),
    "of tomorrow": ({"SomethingOfTomorrow": 1}, "HostConfig.SomethingOfTomorrow"),
    "ulimit": ({"Ulimits": [{**LIMIT, "Name": "nice"}]}, "HostConfig.Ulimits[0].Name"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOST_ATTACKS)
def test_what_reaches_outside_the_container_is_refused(name):
    host, field = HOST_ATTACKS[name]
    assert refusal(body(host)).field == field


ATTACKS = {
    "field of the host config beside it": ({"Privileged": True}, "Privileged"),
    "binds beside the host config": ({"Binds": ["/:/host"]}, "Binds"),
    "foreign image": ({"Image": "alpine:latest"}, "Image"),
    "image in another registry": ({"Image": "evil.example/trainyard/trainer:dev"}, "Image"),
    "image below": ({"Image": "trainyard/trainer/evil:dev"}, "Image"),
    "image whose name begins so": ({"Image": "trainyard/trainer-evil:dev"}, "Image"),
    "no image": ({"Image": ""}, "Image"),
    "root": ({"User": "0"}, "User"),
    "root's group": ({"User": "10001:0"}, "User"),
    "root by name": ({"User": "root"}, "User"),
    "root in disguise": ({"User": "00:1"}, "User"),
    "any name": ({"User": "trainyard"}, "User"),
    "own label taken": ({"Labels": {MANAGED: "false"}}, f"Labels.{MANAGED}"),
    "preload": ({"Env": ["LD_PRELOAD=/r/evil.so"]}, "Env LD_PRELOAD"),
    "nameless volume": ({"Volumes": {"/x": {}}}, "Volumes"),
    "ports": ({"ExposedPorts": {"80/tcp": {}}}, "ExposedPorts"),
    "input": ({"OpenStdin": True}, "OpenStdin"),
    "hardware address": ({"MacAddress": "02:42:ac:11:00:02"}, "MacAddress"),
    "of tomorrow": ({"Other": {"a": 1}}, "Other"),
    "second network": (
        {"NetworkingConfig": {"EndpointsConfig": {"trainyard": {}}}},
        "NetworkingConfig.EndpointsConfig network"),
    "address": (
        {"NetworkingConfig": {"EndpointsConfig": {"trainyard-ranks": {
            "IPAMConfig": {"IPv4Address": "10.0.0.2"}}}}},
        "NetworkingConfig.EndpointsConfig.trainyard-ranks.IPAMConfig"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_none_of_a_runs_affairs_is_refused(name):
    config, field = ATTACKS[name]
    assert refusal(body(**config)).field == field


def test_the_value_of_a_variable_never_stands_in_a_refusal():
    refused = refusal(body(Env=["LD_PRELOAD=s3cret"]))
    assert "s3cret" not in str(refused)
    assert "s3cret" not in str(refusal(body(Env=[{"PASSWORD": "s3cret"}])))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
DANGEROUS = {
    "Privileged", "PidMode", "UTSMode", "UsernsMode", "CapAdd", "Devices", "VolumesFrom", "Links",
    "DeviceCgroupRules", "CgroupParent", "Sysctls", "GroupAdd", "MaskedPaths", "ReadonlyPaths",
}  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(sorted(HOST_FIELDS)) | st.text(max_size=12), JUNK, max_size=4)
)
def test_whatever_a_host_config_holds_only_what_is_understood_reaches_the_engine(host):
    try:
        found = made(body(host))["HostConfig"]
    except RefusedError:
        return
    assert set(found) <= set(HOST_FIELDS)
    assert not any(found.get(name) for name in DANGEROUS)
    assert not {"MaskedPaths", "ReadonlyPaths"} & set(found), "there, empty means unprotected"
    assert found["NetworkMode"] in POLICY.networks
    assert found["CapDrop"].count("ALL")
    assert 0 < found["Memory"] <= POLICY.memory_bytes
    assert 0 < found["PidsLimit"] <= POLICY.pids
    assert all(item.startswith("no-new-privileges") for item in found["SecurityOpt"])
    for bind in found.get("Binds", ()):
        source = bind.split(":")[0]
        assert source in {"/srv/data", "trainyard_runs"} or source.startswith("cache-")


@given(
    st.sampled_from(["/", "/etc", "/srv", "/srv/data", "trainyard_runs", "..", "/srv/data/.."]),
    st.text("./:,azsrvdt", max_size=12),
)
def test_no_spelling_of_a_bind_leads_out_of_what_is_allowed(source, tail):
    text = source + tail
    try:
        found = made(body({"Binds": [text]}))["HostConfig"]["Binds"]
    except RefusedError:
        return
    assert found == [text]
    assert text.split(":")[0] in {"/srv/data", "trainyard_runs"}


@given(JUNK)
def test_any_body_is_either_understood_or_refused(value):
    with suppress(RefusedError):
        creation(strict_json(json.dumps(value).encode()), POLICY)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(b'{"Image": "a", "Image": "b"}', "twice", id="name twice"),
        pytest.param(b'{"HostConfig": {}, "hostconfig": {}}', "twice", id="in another case"),
        pytest.param(b'{"a": {"b": 1, "B": 2}}', "twice", id="deeper"),
        pytest.param(b'{"Memory": 1e3}', "whole", id="float"),
        pytest.param(b'{"Memory": NaN}', "whole", id="nan"),
        pytest.param(b'{"Memory": 9223372036854775808}', "64 bits", id="too large"),
        pytest.param(b'{"a": "\\ud800"}', "surrogate", id="half a pair"),
        pytest.param(b'{"a": "x\\u0000y"}', "NUL", id="nul"),
        pytest.param(b'{"a": 1} {"b": 2}', "no JSON", id="two values"),
        pytest.param(b"\xff\xfe{}", "no JSON", id="other encoding"),
        pytest.param(b"[]", "object", id="list"),
        pytest.param(b"", "no JSON", id="empty"),
        pytest.param(b'{"a":' * 100_000, "deep", id="deep"),
    ],
)
def test_a_body_that_two_readers_could_read_apart_is_refused(text, says):
    with pytest.raises(RefusedError, match=says) as caught:
        strict_json(text)
    assert caught.value.status == 400


class TestFoldersBelow:
    @pytest.fixture
    def policy(self, tmp_path):
        (tmp_path / "runs" / "one").mkdir(parents=True)
        below = (str(tmp_path / "runs"),)
        return Policy(images=POLICY.images, networks=POLICY.networks, binds_below=below)

    def mount(self, folder):
        return body({"Mounts": [{"Type": "bind", "Source": str(folder), "Target": "/r"}]})

    def test_a_plain_folder_may_be_bound(self, policy, tmp_path):
        assert made(self.mount(tmp_path / "runs" / "one"), policy)

    def test_a_link_that_a_run_left_is_not_followed(self, policy, tmp_path):
        (tmp_path / "runs" / "way-out").symlink_to("/")
        refused = refusal(self.mount(tmp_path / "runs" / "way-out"), policy)
        assert "link" in refused.rule
        refused = refusal(self.mount(tmp_path / "runs" / "way-out" / "etc"), policy)
        assert "link" in refused.rule

    def test_what_the_proxy_cannot_see_is_not_bound(self, policy, tmp_path):
        assert "cannot see" in refusal(self.mount(tmp_path / "runs" / "two"), policy).rule

    def test_the_folder_itself_and_its_neighbours_are_not_meant(self, policy, tmp_path):
        (tmp_path / "runs-old").mkdir()
        refusal(self.mount(tmp_path / "runs"), policy)
        refusal(self.mount(tmp_path / "runs-old"), policy)


def rendered():
    """Every body in the golden files of the Docker backend's renderer."""
    for path in sorted((GOLDEN / "docker").glob("*.txt")):
        parts = re.split(r"^container \d+, .*:$", path.read_text(), flags=re.MULTILINE)[1:]
        for place, part in enumerate(parts):
            found, _ = json.JSONDecoder().raw_decode(part.lstrip())
            yield pytest.param(found, id=f"{path.stem}-{place}")


@pytest.mark.parametrize("given", list(rendered()))
def test_what_the_docker_backend_renders_passes_unchanged(given):
    policy = Policy(
        images=("trainyard/trainer:dev", "registry.example/trainer@sha256:*"),
        networks=("trainyard-ranks", "none", "bridge"),
        volumes=("trainyard-runs",),
        binds=("/data/runs/study.run_on_cpu.0-12345678", "/data/sets", "/scratch"),
        memory_bytes=64 * 2**30,
        gpus=True,
    )
    host = made(given, policy)["HostConfig"]
    allowed_to_differ = {"Memory", "PidsLimit"} - set(given["HostConfig"])
    kept = {name: value for name, value in host.items() if name not in allowed_to_differ}
    assert kept == given["HostConfig"]
    whole = made(given, policy)
    assert {**whole, "HostConfig": 0} == {**given, "HostConfig": 0}
