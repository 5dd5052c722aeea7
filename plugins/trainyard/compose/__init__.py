"""The stack in containers: what `make up` writes, starts, watches and stops.

Runs on the host with the standard library alone: a machine with Docker needs nothing else of ours.
"""
