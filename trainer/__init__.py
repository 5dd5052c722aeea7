"""The trainer: one training run, alone, without Airflow.

    python -m trainer spec.json run_dir [--data DIR]
    python -m torch.distributed.run --standalone --nproc-per-node 2 -m trainer spec.json run_dir …

It reads the spec (``trainer.contract.RunSpec``) and the prepared data set and nothing else, and
writes into the run folder: ``metrics.jsonl`` while it runs, ``epochs.csv``, ``result.json``
(``trainer.contract.RunResult``) in one step at its end, and checkpoints where the spec asks.

One run, file by file: ``cli`` reads the spec and answers for failures (``failures``,
``last_words``); ``run`` joins the ranks (``place``, ``group``), opens the ``data``, builds the
``model``; ``loop`` drives warm-up and timed windows over ``steps``, fed by ``sampler``, timed by
``clock`` and ``load``, kept by ``journal`` and ``checkpoint``; ``evaluate`` and ``controls``
follow; ``checks``, ``flags`` and ``metrics`` judge and sum up.
"""
