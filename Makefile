# Two commands do all the set-up: `make demo` and `make test`. Everything lands under .trainyard/.
SHELL := /bin/bash
PYTHON ?= python3
STATE  := .trainyard
ENVS   := $(STATE)/envs
AIRFLOW_PY := $(ENVS)/airflow/bin/python
TRAINER_PY := $(ENVS)/trainer/bin/python
# A task that may not keep its compiled modules compiles them again at every start.
unexport PYTHONDONTWRITEBYTECODE
UV     := $(STATE)/boot/bin/uv

STATE_DIR ?= $(STATE)/demo
KEEP ?=
PROFILES ?=
TLS ?=
VOLUMES ?=
SERVICE ?=
SITE ?= local
LOCAL  := $(AIRFLOW_PY) -m trainyard.local --state $(STATE_DIR)

APPTAINER ?= apptainer
SIF ?= $(STATE)/trainer.sif

.PHONY: image-sif demo serve setup setup-test test test-fast bench-pipeline bench-slurm bench-profile bench-containers pictures dashboards lint format help locks audit images up down status logs certs
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: setup  ## run a scaling study end to end and open its report (KEEP=1: leave the web UI up; SITE=slurm: through sbatch; SITE=docker: in containers)
	$(LOCAL) demo $(if $(KEEP),--keep) --site $(SITE)

serve: setup  ## the local stack with its web UI, until Ctrl-C
	$(LOCAL) serve --site $(SITE)

$(UV): requirements/boot.txt
	$(PYTHON) requirements/boot.py $(STATE)/boot

setup: $(UV)  ## the two environments, from the hash-pinned locks
	$(PYTHON) requirements/sync.py airflow trainer

setup-test: $(UV)  ## the environments with what tests and lint add
	$(PYTHON) requirements/sync.py airflow-test trainer-test lint audit

test: setup-test lint  ## everything: lint, types, both test suites
	$(PYTHON) tests/run.py

test-fast: setup-test  ## the quick tests, for the inner loop
	$(PYTHON) tests/run.py --fast

lint: setup-test  ## ruff and mypy
	$(ENVS)/lint/bin/ruff check .
	$(ENVS)/lint/bin/ruff format --check .
	$(ENVS)/lint/bin/mypy --python-executable $(AIRFLOW_PY) plugins dags tests
	$(ENVS)/lint/bin/mypy --python-executable $(TRAINER_PY) trainer

bench-pipeline: setup-test  ## what the pipeline costs beside the work; one JSON object last
	@$(AIRFLOW_PY) benchmarks/pipeline.py

# The stack in containers needs Docker and this Python alone; docs/stack.md.
COMPOSE := PYTHONPATH=plugins:. $(PYTHON) -m trainyard.compose $(if $(PROFILES),--profiles $(PROFILES)) $(if $(TLS),--tls)

up:  ## start the whole stack in containers and wait until it is well (PROFILES=slurm,celery,gpu; TLS=1)
	@$(COMPOSE) up

down:  ## stop the stack in containers and keep its data (VOLUMES=1: remove the data)
	@$(COMPOSE) down $(if $(VOLUMES),--volumes)

status:  ## state, health and address of each service
	@$(COMPOSE) status

logs:  ## follow the log of the stack, or of SERVICE=
	@$(COMPOSE) logs $(SERVICE)

certs:  ## make the TLS proxy's certificate, or check yours in .trainyard/stack/tls
	@$(COMPOSE) certs

pictures: setup-test  ## take the documentation's pictures from the last demo
	$(AIRFLOW_PY) docs/images/make.py $(STATE_DIR)

bench-slurm: setup-test  ## the Slurm engine under faults, and 200 real jobs; one JSON object last
	@$(AIRFLOW_PY) benchmarks/slurm.py

bench-containers: setup-test  ## what containers and the stack cost, with faults; one JSON object last
	@$(AIRFLOW_PY) benchmarks/containers.py $(if $(ONLY),--only $(ONLY))

images:  ## build the container images (BASE=, TAG=, GPU=yes|no, IMAGES="trainer airflow")
	$(PYTHON) containers/build.py --base "$(BASE)" --tag $(or $(TAG),dev) --gpu $(or $(GPU),auto) $(IMAGES)

image-sif:  ## build the trainer as an Apptainer image (SIF=, APPTAINER=, SIF_ARGS="--build-arg FROM=…"): docs/apptainer.md
	$(APPTAINER) build $(SIF_ARGS) --build-arg COMMIT=$$(git rev-parse HEAD) --build-arg VERSION=$$(git describe --tags --always) $(SIF) containers/apptainer/trainer.def

audit: $(UV)  ## look every locked package up in an advisory service (IMAGES="trainyard/trainer:dev …": and what images hold)
	@$(PYTHON) requirements/sync.py audit
	@$(PYTHON) requirements/audit.py $(if $(IMAGES),--images $(IMAGES))

bench-profile: setup-test  ## how fast and exact profiles are analysed, beside HTA; one JSON object last
	@$(PYTHON) requirements/sync.py hta >&2
	@$(AIRFLOW_PY) benchmarks/profile.py

format: setup-test  ## bring the code into its one form
	$(ENVS)/lint/bin/ruff check --fix . ; $(ENVS)/lint/bin/ruff format .

dashboards: setup-test  ## write Grafana's dashboards anew from plugins/trainyard/dashboards
	$(AIRFLOW_PY) -m trainyard.dashboards

locks: $(UV)  ## resolve requirements/*.in again
	$(PYTHON) requirements/lock.py
