"""The image of containers/apptainer/trainer.def, built for real with a lock of one package."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.fixtures.apptainer import DEFINITION, ENVIRONMENT, build_arguments, make_context
from trainer.contract import SCHEMA_VERSION

pytestmark = pytest.mark.slow


def test_labels_say_what_the_image_was_made_from(apptainer):
    done = apptainer.run("inspect", "--json", "--labels", str(apptainer.image))
    labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert re.match(r"3\.11\.\d+", labels["trainyard.python"])
    assert re.match(r"4\.\d+\.\d+", labels["trainyard.openmpi"])
    assert labels["trainyard.contract"] == str(SCHEMA_VERSION)


def test_the_images_own_test_trains(apptainer, monkeypatch):
    """Its %test section as it stands; torch is bound in."""
    monkeypatch.setenv("APPTAINERENV_PYTHONPATH", f"{ENVIRONMENT}/packages")
    done = apptainer.run(
        "test", "--cleanenv", "--no-home", "--bind", ENVIRONMENT, str(apptainer.image)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^torch 2\.\d+", done.stdout, re.MULTILINE)
    assert "ranks 1, sum 0, library Open MPI" in done.stdout


def test_the_images_own_test_can_fail(apptainer):
    done = apptainer.run("test", "--cleanenv", "--no-home", str(apptainer.image))
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr


def test_the_image_runs_the_trainer(apptainer):
    done = apptainer.run("run", "--cleanenv", "--no-home", str(apptainer.image), "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_nothing_that_installs_is_left_in_the_image(apptainer):
    script = "ls -A /opt; ls /opt/trainer/bin; find / -xdev -name uv -type f 2>/dev/null; true"
    done = apptainer.run(
        "exec", "--cleanenv", "--no-home", str(apptainer.image), "sh", "-c", script
    )
    found = done.stdout.split()
    assert {"trainer", "trainyard", "python"} <= set(found)
    assert not {"build", "uv", "/opt/build/env/bin/uv"} & set(found)


def test_a_package_with_another_hash_than_the_locks_fails_the_build(apptainer):
    """The base is unpacked and the lock's one package refused; MPI is left out, to be quick."""
    context = make_context(apptainer.folder / "context")
    lock = context / "requirements" / "small.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", lock.read_text()))
    base = apptainer.folder / "base.tar"
    shutil.copyfile(apptainer.base, base)
    base.chmod(0o644)
    image = apptainer.folder / "refused.sif"
    arguments = [*build_arguments(base), "--build-arg", "MPI=no", str(image)]
    definition = "containers/apptainer/trainer.def"
    done = apptainer.run("build", *arguments, definition, where=context)
    assert done.returncode != 0
    assert re.search(r"hash mismatch for `?psutil", done.stderr, re.IGNORECASE), done.stderr[-2000:]
    assert not image.exists()


def test_the_definition_has_a_default_for_every_argument():
    text = (DEFINITION / "trainer.def").read_text()
    used = set(re.findall(r"\{\{ (\w+) \}\}", text))
    section = text.partition("%arguments\n")[2].partition("\n%")[0]
    assert used == set(re.findall(r"(?m)^  (\w+)=", section))
