from __future__ import annotations

import stat

from trainyard.local.state import StackPaths, free_ports, load_secrets, write_configuration
from trainyard.settings import load_settings
from trainyard.sites import load_sites


def test_ports_differ():
    ports = free_ports()
    numbers = {ports.airflow, ports.worker_logs, ports.trigger_logs, ports.mlflow, ports.s3}
    assert len(numbers) == 5


def test_secrets_are_random_private_and_kept(tmp_path):
    first = load_secrets(StackPaths(root=tmp_path / "one"))
    again = load_secrets(StackPaths(root=tmp_path / "one"))
    other = load_secrets(StackPaths(root=tmp_path / "two"))
    assert first == again
    assert first.admin_password != other.admin_password
    mode = StackPaths(root=tmp_path / "one").secrets.stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_written_configuration_is_what_the_tasks_read(tmp_path):
    paths = StackPaths(root=tmp_path)
    keys = load_secrets(paths)
    write_configuration(paths, free_ports(), keys, "0 3 * * *")
    settings = load_settings(paths.settings)
    assert settings.s3_secret_key == keys.s3_secret_key
    assert settings.nightly_schedule == "0 3 * * *"
    assert settings.results_url == f"sqlite:///{tmp_path}/results.db"
    site = load_sites(paths.sites)["local"]
    assert site.runs_dir == str(paths.runs)
    assert site.cores >= 1
    assert keys.s3_secret_key not in repr(settings)
