"""Secrets of the settings file stay out of what prints settings; the logs: tests/e2e."""

from __future__ import annotations

import pytest

from trainyard.settings import load_settings

PASSWORD = "pa%40ss-hush"  # in the address; pa@ss-hush as a library decodes it
SETTINGS = f"""
results_url = "postgresql://me:{PASSWORD}@db:5432/results"
s3_endpoint = "store:9000"
s3_access_key = "trainyard-key"
s3_secret_key = "s3-hush-hush"
mlflow_url = "http://mlflow:5000"
reports_dir = "/tmp/reports"
downloads_dir = "/tmp/downloads"
sites_file = "/tmp/sites.toml"
"""


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return load_settings(path)


def test_no_secret_stands_in_what_settings_print(settings):
    assert set(settings.secrets()) == {"s3-hush-hush", PASSWORD, "pa@ss-hush"}
    assert "hush" not in repr(settings)


def test_a_stacks_secrets_do_not_print():
    from trainyard.local.state import Secrets

    made = Secrets(**dict.fromkeys(Secrets.__slots__, "hush"))
    assert "hush" not in repr(made)
