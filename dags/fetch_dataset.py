"""Stage a data set in the object store and prepare it on a site."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="fetch_dataset",
    schedule=None,
    doc_md="""
Downloads a data set from its publisher, compares the published checksum, checks the images, stores
archive and manifest in the object store, and prepares the arrays that runs read. What is there
already is not transferred again.
""",
    params={**forms.dataset_form(), **forms.site_form()},
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "data"],
    dagrun_timeout=timedelta(hours=6),
):
    pipeline.fetch()
