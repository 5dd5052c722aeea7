"""What the containers read fits those who read it: settings, sites, policy, accounts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from trainyard.compose import keys, render, stack
from trainyard.compose import tools as node_tools
from trainyard.settings import load_settings
from trainyard.sites import Launcher, parse_sites

PLAIN = render.Place(project="trainyard", cores=8, profiles=frozenset())
CLUSTER = render.Place(
    project="bench", cores=8, profiles=frozenset({"slurm"}), tls=True,
    login=render.LoginKeys(host_public="ssh-ed25519 AAAA", host_private="HOST PRIVATE",
                           user_public="ssh-ed25519 BBBB", user_private="USER PRIVATE"),
)  # fmt: skip


@pytest.fixture
def values():
    return {key.name: key.make() for key in keys.KEYS}


def test_the_settings_are_ones_that_trainyard_reads(values, tmp_path):
    for place, scheme in ((PLAIN, "http"), (CLUSTER, "https")):
        file = tmp_path / "settings.toml"
        file.write_text(render.files(values, place)["settings.toml"])
        found = load_settings(file)
        assert found.default_site == "docker"
        assert found.airflow_public_url.startswith(f"{scheme}://localhost:")
        assert values["RESULTS_DB_PASSWORD"] in found.results_url
        file.write_text(render.files(values, place)["settings-reader.toml"])
        reader = load_settings(file)
        assert values["RESULTS_READER_PASSWORD"] in reader.results_url
        assert reader.s3_secret_key not in values.values(), "a reader needs no object store"


def test_sites_differ_in_how_ranks_are_spread_and_exist_where_their_part_runs(values):
    plain = parse_sites(render.sites(values, PLAIN), "sites")
    assert set(plain) == {"docker", "docker-ranks"}
    one = plain["docker"]
    assert one.cores == 8
    assert one.docker.network == "trainyard-ranks"
    assert one.docker.host == "tcp://docker-proxy:2375"
    volumes = {mount.target: mount.source for mount in one.docker.all_mounts}
    assert volumes == {one.runs_dir: "trainyard_runs", one.data_dir: "trainyard_data"}
    both = parse_sites(render.sites(values, CLUSTER), "sites")
    assert both["slurm"].launcher is Launcher.SLURM
    assert both["slurm"].largest_ranks == 2
    assert both["docker"].docker.network == "bench-ranks"


def test_gpus_and_cores_are_as_env_says(values):
    found = parse_sites(
        render.sites(values | {"TRAINER_CORES": "3", "TRAINER_GPUS": "2"}, PLAIN), "sites"
    )["docker"]
    assert (found.cores, found.gpus_per_node, found.largest_ranks) == (3, 2, 2)
    assert found.pool == "trainyard_gpu"


@pytest.mark.parametrize("tools", ["", "/opt/nvidia/nsight-systems, /opt/nvidia/nsight-compute"])
def test_the_proxy_permits_exactly_what_the_sites_use(values, tools):
    from trainyard.dockerproxy.policy import Policy

    values["TRAINER_TOOLS"] = tools
    table = render.proxy_policy(values, CLUSTER)
    policy = Policy(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    site = parse_sites(render.sites(values, CLUSTER), "sites")["docker"]
    assert policy.images == (site.docker.image,)
    assert site.docker.network in policy.networks
    mounts = site.docker.all_mounts
    assert set(policy.volumes) == {mount.source for mount in mounts if mount.is_volume}
    folders = [mount for mount in mounts if not mount.is_volume]
    assert list(policy.binds) == [mount.source for mount in folders]
    assert len(folders) == (2 if tools else 0)
    assert all(mount.read_only and mount.target == mount.source for mount in folders)
    assert not policy.gpus
    assert not policy.binds_below


def test_pools_have_one_slot_since_two_runs_would_measure_each_other(values):
    assert {pool["name"] for pool in render.pools(CLUSTER)} == {
        "trainyard_cpu", "trainyard_gpu", "trainyard_slurm"
    }  # fmt: skip
    assert all(pool["slots"] == 1 for pool in render.pools(CLUSTER))
    sites = parse_sites(render.sites(values, CLUSTER), "sites").values()
    assert {site.pool for site in sites} <= {pool["name"] for pool in render.pools(CLUSTER)}


def test_connections_believe_one_host_key_and_hold_no_secret(values):
    found = render.connections(CLUSTER)
    login = next(entry for entry in found.values() if entry["conn_type"] == "ssh")
    assert login["extra"]["host_key"] == "ssh-ed25519 AAAA"
    assert login["extra"]["no_host_key_check"] is False
    assert "PRIVATE" not in json.dumps(found)
    assert render.connections(PLAIN) == {}
    cluster = next(entry for entry in found.values() if entry["conn_type"] == "slurm")
    assert cluster["extra"]["ssh_conn_id"] in found
    site = parse_sites(render.sites(values, CLUSTER), "sites")["slurm"]
    assert site.slurm.connection in found


def test_accounts_are_the_three_roles(values):
    found = {entry["username"]: entry for entry in render.accounts(values)}
    assert {name: entry["role"] for name, entry in found.items()} == {
        "viewer": "Viewer", "operator": "User", "admin": "Admin"
    }  # fmt: skip
    assert found["admin"]["password"] == values["ADMIN_PASSWORD"]


def test_the_web_users_file_holds_salted_hashes(values):
    lines = render.files(values, PLAIN)["web_users"]
    assert isinstance(lines, str)
    assert len(lines.splitlines()) == 3
    for line in lines.splitlines():
        name, _, hashed = line.partition(":")
        assert hashed.startswith("{SSHA}")
        raw = base64.b64decode(hashed[6:])
        password = values[f"{name.upper()}_PASSWORD"].encode()
        assert hashlib.sha1(password + raw[20:]).digest() == raw[:20]


def test_the_same_choices_give_the_same_files(values):
    assert render.files(values, CLUSTER) == render.files(dict(values), CLUSTER)


def test_no_file_holds_more_secrets_than_its_reader_needs(values):
    found = render.files(values, CLUSTER)
    secrets = {key.name: values[key.name] for key in keys.KEYS if key.secret}
    texts = {name: c if isinstance(c, str) else "" for name, c in found.items()}
    holds = {name: {key for key, word in secrets.items() if word in text}
             for name, text in texts.items()}  # fmt: skip
    assert holds["settings.toml"] == {"RESULTS_DB_PASSWORD", "S3_SECRET_KEY"}
    assert holds["settings-reader.toml"] == {"RESULTS_READER_PASSWORD"}
    assert holds["sites.toml"] == holds["pools.json"] == holds["docker-proxy.toml"] == set()
    many = {name for name, inside in holds.items() if len(inside) > 1}
    assert many == {"settings.toml", "accounts.json"}


def test_files_lie_where_their_owner_alone_may_enter(values, tmp_path):
    options = stack.Options(root=Path(__file__).parents[3], env_file=tmp_path / ".env")
    made = stack.describe(options, values)
    umask = os.umask(0)
    try:
        assert stack.write(made, PLAIN) is False
    finally:
        os.umask(umask)
    folder = tmp_path / ".trainyard" / "stack" / "secrets"
    for private in (folder, folder.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    # The user of a container has another number; the folder keeps the machine's users out.
    assert stat.S_IMODE((folder / "postgres_password").stat().st_mode) == 0o644
    assert stack.write(made, PLAIN) is False, "nothing changed"
    assert stack.write(made, CLUSTER) is True, "containers must be made again"


def test_tools_are_mounted_into_the_nodes_by_a_file_of_their_own(values, tmp_path):
    tools = "/opt/nvidia/nsight-systems,/opt/nvidia/nsight-compute"
    env_file = tmp_path / ".env"
    options = stack.Options(root=Path(__file__).parents[3], env_file=env_file, profiles="slurm")
    path = tmp_path / ".trainyard" / "stack" / "tools.json"
    for chosen in (tools, ""):
        node_tools.write(path.parent, values | {"TRAINER_TOOLS": chosen})
        files = stack.describe(options, values).compose.files
        assert (str(path) in files) == path.exists() == bool(chosen)
        if chosen:
            nodes = json.loads(path.read_text())["services"]
            assert set(nodes) == {"slurm-node-1", "slurm-node-2"}
            for node in nodes.values():
                mounts = [(m["source"], m["target"], m["read_only"]) for m in node["volumes"]]
                assert mounts == [(tool, tool, True) for tool in tools.split(",")]
    node_tools.write(path.parent, values | {"TRAINER_TOOLS": tools})
    without = stack.describe(replace(options, profiles=""), values)
    assert str(path) not in without.compose.files
