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
clock of one site, and probes its nodes where runs happen: what they are, and what they reach
against the site's references. Everything is stored. A failed check fails the run and says what
to do; a success updates the asset `trainyard://environment/<site>`.
""",
    params={**forms.site_form(), **forms.probes_form()},
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "check"],
    dagrun_timeout=timedelta(minutes=30),
):
    pipeline.verify()
