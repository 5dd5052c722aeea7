"""Runs inside an Apptainer image: a prefix for the process and Slurm launchers.

``site`` says what the image is and sees, ``prefix`` renders it, both pure; ``identity`` tells
which image it is, ``preflight`` whether it would start, both by commands on the machine.
"""
