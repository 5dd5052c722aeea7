"""Probes of one node, made where training runs: what it is, and what it reaches.

``python -m trainer.probes`` writes one ``ProbeReport`` per node. Facts are read, measurements are
timed; a probe that fails or hangs is a problem of the report and stops none of the others.
"""
