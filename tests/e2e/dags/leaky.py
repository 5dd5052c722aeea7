"""A task that tells every secret it can find, for the tests of what its log shows."""

import logging

from airflow.sdk import DAG, task

log = logging.getLogger("trainyard.leaky")

with DAG("leaky", schedule=None, tags=["trainyard"], is_paused_upon_creation=False):

    @task
    def leak():
        from trainyard.settings import load_settings

        secret = load_settings().s3_secret_key
        log.info("logged %s", secret)
        print("printed", secret)
        try:
            raise ValueError(secret)
        except ValueError:
            log.exception("caught")
        print("the end")
        raise RuntimeError(f"failed with {secret}")

    leak()
