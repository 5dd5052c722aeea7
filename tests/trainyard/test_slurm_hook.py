"""The connection type ``slurm``: its form, what it describes, what its test says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.runs import site
from tests.fakes.slurm import FakeCluster
from trainyard.errors import ConfigurationError
from trainyard.hooks.backends import backend_of
from trainyard.hooks.slurm import SlurmHook, access_of, access_of_extra, completed
from trainyard.provider import get_provider_info
from trainyard.sites import Launcher
from trainyard.slurm.site import Reach, SlurmSite
from trainyard.slurm.transport import LocalTransport


@pytest.fixture
def connect(monkeypatch):
    def made(**extra: object) -> SlurmHook:
        text = json.dumps({"conn_type": "slurm", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", text)
        return SlurmHook("cluster")

    return made


def test_the_provider_record_is_valid_and_names_what_exists():
    import airflow
    import jsonschema
    from airflow.sdk.module_loading import import_string

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    info = get_provider_info()
    jsonschema.validate(info, schema)
    (kind,) = info["connection-types"]
    assert import_string(kind["hook-class-name"]).conn_type == kind["connection-type"] == "slurm"
    for link in info["extra-links"]:
        assert import_string(link)


def test_every_field_of_the_form_is_explained_and_none_is_a_secret():
    (kind,) = get_provider_info()["connection-types"]
    for name, field in kind["conn-fields"].items():
        assert field["label"], name
        assert len(field["description"]) > 20, name
        assert "default" in field["schema"], name
        assert not {"password", "token", "key", "secret"} & set(name.split("_"))
        assert field["schema"].get("format") != "password"


def test_every_field_of_the_form_does_something(connect):
    (kind,) = get_provider_info()["connection-types"]
    given = {
        "transport": "local", "ssh_conn_id": "login", "bin_dir": "/opt/slurm/bin",
        "slurm_conf": "/etc/s.conf", "partition": "gpu", "account": "lab",
        "commands_per_s": "0.5", "min_poll_s": 20,
    }  # fmt: skip
    assert set(given) | {"user"} == set(kind["conn-fields"])
    access = connect(**given).access
    assert access.transport() == LocalTransport(environment={"SLURM_CONF": "/etc/s.conf"})
    assert (access.folder, access.commands_per_s, access.least_poll_s) == (
        "/opt/slurm/bin", 0.5, 20.0,
    )  # fmt: skip
    assert access.options().fast_s == 20.0
    filled = access.complete(SlurmSite(account="mine"))
    assert (filled.partition, filled.account) == ("gpu", "mine")


def test_an_empty_form_means_the_commands_of_this_host(connect):
    access = connect().access
    assert access.transport() == LocalTransport()
    assert access.options().fast_s == 6.5
    assert connect(commands_per_s=0.05).access.options().fast_s == 20.0, "the budget goes first"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"transport": "rest"}, "transport = 'rest'; choose from local, ssh"),
        ({"transport": "ssh"}, "needs ssh_conn_id"),
        ({"commands_per_s": "many"}, "commands_per_s = 'many' must be a number"),
        ({"commands_per_s": 0}, "must be above 0"),
        ({"min_poll_s": -1}, "must be above 0"),
    ],
)
def test_bad_fields_are_named(extra, words):
    with pytest.raises(ConfigurationError, match=words):
        access_of_extra("cluster", extra)


class TestTheTestButton:
    def test_says_what_the_cluster_is(self, connect, monkeypatch):
        hook = connect()
        fake = FakeCluster(preempt_mode="REQUEUE")
        hook.__dict__["access"] = replace(hook.access, transport=lambda: fake)
        good, text = hook.test_connection()
        assert good
        for part in ("Slurm 22.05", "cluster fake", "slurmdbd, and it answers", "REQUEUE", "main"):
            assert part in text

    def test_says_what_to_do_about_missing_commands(self, connect):
        good, text = connect(bin_dir="/nonexistent").test_connection()
        assert not good
        assert "/nonexistent/scontrol" in text
        assert "install the Slurm client there" in text

    def test_says_that_nobody_answers(self, connect):
        hook = connect()
        fake = FakeCluster()
        fake.controller_down = True
        hook.__dict__["access"] = replace(hook.access, transport=lambda: fake)
        good, text = hook.test_connection()
        assert not good
        assert "Unable to contact slurm controller" in text

    def test_says_which_field_is_wrong(self, connect):
        assert connect(transport="ssh").test_connection() == (
            False,
            "connection 'cluster': transport = 'ssh' needs ssh_conn_id, the SSH connection of the "
            "login node",
        )


class TestSites:
    def slurm_site(self, folder, **more):
        return site(folder, launcher=Launcher.SLURM, slurm=SlurmSite(**more))

    def test_the_site_file_alone_suffices_for_this_host(self, tmp_path):
        found = access_of(self.slurm_site(tmp_path, slurm_conf="/etc/other.conf"))
        assert found.transport() == LocalTransport(environment={"SLURM_CONF": "/etc/other.conf"})

    def test_a_login_node_needs_a_connection(self, tmp_path):
        with pytest.raises(ConfigurationError, match="needs an Airflow connection of type slurm"):
            access_of(self.slurm_site(tmp_path, reach=Reach.SSH))

    def test_the_connection_fills_what_the_site_leaves_open(self, tmp_path, connect):
        connect(partition="gpu", account="lab")
        made = completed(self.slurm_site(tmp_path, connection="cluster", account="mine"))
        assert (made.slurm.partition, made.slurm.account) == ("gpu", "mine")
        plain = site(tmp_path)
        assert completed(plain) is plain

    def test_each_launcher_gets_its_backend(self, tmp_path):
        assert type(backend_of(site(tmp_path))).__name__ == "ProcessBackend"
        assert type(backend_of(self.slurm_site(tmp_path))).__name__ == "SlurmBackend"


class TestLoginNodes:
    def ssh(self, monkeypatch, host: str) -> None:
        extra = {"no_host_key_check": "false"}
        text = json.dumps({"conn_type": "ssh", "host": host, "login": "me", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_LOGIN", text)

    def test_one_connection_for_all_that_this_process_asks(self, connect, monkeypatch):
        self.ssh(monkeypatch, "login.example")
        access = connect(transport="ssh", ssh_conn_id="login").access
        assert access.transport() is access.transport()
        other = connect(transport="ssh", ssh_conn_id="login", slurm_conf="/b.conf").access
        assert other.transport() is not access.transport()

    def test_a_corrected_connection_is_used_at_once(self, connect, monkeypatch):
        self.ssh(monkeypatch, "wrong.example")
        before = connect(transport="ssh", ssh_conn_id="login").access.transport()
        self.ssh(monkeypatch, "right.example")
        again = connect(transport="ssh", ssh_conn_id="login").access.transport()
        assert again is not before
