"""Fixtures shared by both test environments; heavy imports stay inside the fixtures."""

from __future__ import annotations

from hypothesis import settings

# A busy machine makes an example slow, never wrong; time is what benchmarks measure.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")

pytest_plugins: list[str] = [
    "tests.fixtures.airflow",
    "tests.fixtures.apptainer",
    "tests.fixtures.docker_engine",
    "tests.fixtures.mlflow",
    "tests.fixtures.postgres",
    "tests.fixtures.results",
    "tests.fixtures.disks",
    "tests.fixtures.docker_shell",
    "tests.fixtures.s3",
    "tests.fixtures.moto",  # imports the one before it
    "tests.fixtures.slurm_cluster",
    "tests.fixtures.sshd",
    "tests.fixtures.stack",
]
