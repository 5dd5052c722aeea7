# Two commands do all the set-up: `make demo` and `make test`. Everything lands under .trainyard/.
SHELL := /bin/bash
PYTHON ?= python3
STATE  := .trainyard
ENVS   := $(STATE)/envs
AIRFLOW_PY := $(ENVS)/airflow/bin/python
TRAINER_PY := $(ENVS)/trainer/bin/python
UV     := $(STATE)/boot/bin/uv
export UV_COMPILE_BYTECODE ?= 1
export UV_LINK_MODE ?= hardlink

.PHONY: setup setup-test lint locks clean

$(UV): requirements/boot.txt
	$(PYTHON) requirements/boot.py $(STATE)/boot

setup: $(UV)  ## the two environments, from the hash-pinned locks
	$(PYTHON) requirements/sync.py airflow trainer

setup-test: $(UV)
	$(PYTHON) requirements/sync.py airflow-test trainer-test lint

locks: $(UV)  ## resolve requirements/*.in again
	$(PYTHON) requirements/lock.py
