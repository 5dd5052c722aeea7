"""What verify_environment says of a site with an image: with a real Apptainer, and its faults.

Forbidden user namespaces and an old version come from a stand-in: this machine allows them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.trainyard.apptainer.test_apptainer_launch import MINIMAL
from trainyard.environment import Finding
from trainyard.environment_apptainer import advice, apptainer_checks
from trainyard.errors import ConfigurationError
from trainyard.sites import Launcher
from trainyard.slurm.site import SlurmSite
from trainyard.slurm.transport import LocalTransport
from trainyard.store import Verdict

HEADER = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\x0001\x00%s\x00" + bytes(64)


def check(site, name: str) -> Finding:
    return apptainer_checks(site, LocalTransport())[name](SimpleNamespace(), site)


def change(site, **values):
    return replace(site, apptainer=replace(site.apptainer, identity=None, **values))


@pytest.fixture
def stand_in(tmp_path):
    """Return a site whose Apptainer is a script."""

    def make(body: str, **values):
        script = tmp_path / "apptainer"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        return change(MINIMAL, executable=str(script), **values)

    return make


def test_a_site_without_an_image_has_no_such_checks():
    assert apptainer_checks(replace(MINIMAL, apptainer=None), LocalTransport()) == {}


@pytest.mark.slow
def test_a_site_that_is_ready(apptainer):
    site = apptainer.site("ready")
    found = {
        name: run(SimpleNamespace(), site)
        for name, run in apptainer_checks(site, LocalTransport()).items()
    }
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(
        ("apptainer", "apptainer image", "apptainer architecture", "trainer"), Verdict.PASSED
    )
    assert re.match(r"apptainer version 1\.\d", found["apptainer"].measured)
    assert site.apptainer.identity.digest in found["apptainer image"].measured
    assert re.match(r"Python 3\.11\.\d+, torch 2\.\d+", found["trainer"].measured)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "changes", "measured", "fix"),
    [
        ({"binds": ("/none/such",)}, {}, "/none/such doesn't exist", "create that folder"),
        ({}, {"python": "/opt/none/python"}, "no such file", "path in the image"),
        ({}, {"environment": ()}, "No module named 'torch'", "trainer.def"),
        ({"image": "cut"}, {}, "squashfs", "copied completely"),
        ({"image": "junk"}, {}, "format not recognized", "no image: copy it again"),
    ],
)
def test_what_keeps_a_real_image_from_starting(apptainer, container, changes, measured, fix):
    for name, data in (("cut", apptainer.image.read_bytes()[:100_000]), ("junk", b"junk" * 30)):
        (apptainer.folder / name).write_bytes(data)
    if "image" in container:
        container = {"image": str(apptainer.folder / container["image"])}
    site = replace(apptainer.site("fails", apptainer=container), **changes)
    found = check(site, "trainer")
    assert found.verdict is Verdict.FAILED
    assert measured in found.measured
    assert fix in found.fix


def test_a_missing_program_names_where_it_may_be():
    site = change(MINIMAL, executable="/none/apptainer")
    for name in ("apptainer", "trainer"):
        found = check(site, name)
        assert (found.verdict, found.measured) == (Verdict.FAILED, "/none/apptainer: not found")
    assert "slurm.modules" in check(site, "apptainer").fix


def test_an_old_program_is_refused(stand_in):
    found = check(stand_in("echo singularity version 3.8.7-1"), "apptainer")
    assert found.verdict is Verdict.PASSED  # SingularityCE numbers its versions on
    found = check(stand_in("echo apptainer version 1.0.3"), "apptainer")
    assert found.verdict is Verdict.FAILED
    assert "Apptainer 1.1 or newer" in found.requirement


@pytest.mark.parametrize(
    "said",
    [
        "ERROR  : Failed to create user namespace: user namespace disabled",
        "ERROR  : Failed to create user namespace: maximum number of user namespaces exceeded, "
        "check /proc/sys/user/max_user_namespaces",
        "FATAL:   container creation failed: no unprivileged user namespace",
    ],
)
def test_forbidden_user_namespaces_name_what_to_ask_for(stand_in, said):
    found = check(stand_in(f'echo "{said}" >&2; exit 255'), "trainer")
    assert found.verdict is Verdict.FAILED
    assert found.measured.endswith(said)
    assert "apptainer-suid" in found.fix


def test_what_nobody_knows_is_shown_with_the_command(stand_in):
    found = check(stand_in('echo "FATAL:   the moon is full" >&2; exit 255'), "trainer")
    assert found.measured == "exit code 255: FATAL:   the moon is full"
    assert "exec --no-eval --cleanenv" in found.fix
    assert advice("the moon is full") == ""


@pytest.mark.parametrize(
    ("header", "verdict", "measured"),
    [
        (HEADER % b"02", Verdict.PASSED, "image for x86_64"),
        (HEADER % b"04", Verdict.FAILED, "image for aarch64"),
        (HEADER % b"09", Verdict.FAILED, "image for architecture 09"),
        (b"junk", Verdict.FAILED, "no SIF header"),
    ],
)
def test_an_image_for_another_machine(stand_in, tmp_path, header, verdict, measured):
    image = tmp_path / "trainer.sif"
    image.write_bytes(header)
    (tmp_path / "bin").mkdir()
    site = stand_in("", image=str(image))
    transport = Machine("x86_64")
    found = apptainer_checks(site, transport)["apptainer architecture"](SimpleNamespace(), site)
    assert (found.verdict, found.measured) == (verdict, measured)


class Machine(LocalTransport):
    """This host, called another machine."""

    machine: str

    def __init__(self, machine: str) -> None:
        object.__setattr__(self, "environment", {})
        object.__setattr__(self, "machine", machine)

    def run(self, argv, stdin=None, timeout=30):
        done = LocalTransport().run(argv, stdin, timeout)
        return replace(done, stdout=f"{self.machine}\n") if argv[0] == "uname" else done


def test_a_missing_image_says_where_it_should_be():
    site = change(MINIMAL, image="/none/trainer.sif")
    with pytest.raises(ConfigurationError, match=r"/none/trainer\.sif"):
        check(site, "apptainer image")


def test_a_login_node_warns_only_and_loads_the_modules_first(stand_in, tmp_path):
    """What is missing on a login node may well be on the nodes."""
    profile = tmp_path / "module"
    profile.write_text('#!/bin/sh\necho "$@" >>"%s"\n' % (tmp_path / "loaded"))
    profile.chmod(0o755)
    site = replace(
        stand_in("echo apptainer version 1.4.5"),
        launcher=Launcher.SLURM,
        slurm=SlurmSite(modules=("apptainer/1.4",)),
    )
    transport = LocalTransport(environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    checks = apptainer_checks(site, transport)
    assert checks["apptainer"](SimpleNamespace(), site).verdict is Verdict.PASSED
    assert (tmp_path / "loaded").read_text() == "load apptainer/1.4\n"
    gone = change(site, executable="/none/apptainer")
    found = apptainer_checks(gone, transport)["apptainer"](SimpleNamespace(), gone)
    assert found.verdict is Verdict.WARNING
