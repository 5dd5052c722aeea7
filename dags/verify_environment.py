"""Check a site: is it ready to measure on?"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="verify_environment",
    schedule=None,
    doc_md="""
Checks versions, cores, memory, disk, GPUs, object store, tracking server, results database and
clock of one site. Every check is stored with what was found and what is needed. A failed check
fails the run and says what to do.
""",
    params=forms.site_form(),
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "check"],
    dagrun_timeout=timedelta(minutes=30),
):
    pipeline.verify()
