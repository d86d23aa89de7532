# `make demo` is the place to start. Everything lands in .venv/ and artifacts/; `make clean` removes what was computed.
#
#   make demo                 install, run every lesson on the virtual hospitals, write artifacts/report.html
#   make lab                  open the lessons in JupyterLab
#   make room [MIRROR=DIR]    serve the reading room to a class: a page without code, at http://localhost:8866
#   make site [STORE=DIR]     the reading room as a page without a server: site/dist (docs/site.md; needs node 20 and npm)
#   make site-test [MIRROR=DIR]  that page in a headless Chromium, against the answers of the package
#   make test                 the quick tests, on two cores: at least one of every module, in minutes
#   make test-all             all tests but the slow ones, and nbval of every lesson (on the store of make demo): what CI runs
#   make test-slow            the slow tests: whole dry runs at full size, a browser (hours)
#   make lint                 ruff check, ruff format, types
#   make docs                 the documentation as pages: build/docs (built offline; CXRKIT_JUPYTERHUB=ADDRESS adds a launch button)
#   make twins [LESSON=09]    the lessons that show real films, for make docs: it needs the classroom set (cxrkit data fetch classroom)
#   make wheels               both packages in dist/, checked and installed into a clean environment (docs/release.md)
#   make oracles              the tests against public implementations that are too large for CI
#   make mini [MIRROR=DIR]    every lesson on real public films, two stages at a time (docs/mini.md says how long; resumes)
#   make weights [MIRROR=DIR] put the finished models of mini into the package (cxrkit/inference/weights)
#   make ship [STORE=DIR]     put the finished stages of demo into the package, without pixels (SHIP_ARGS: tools/ship.py --help)
#   make verify [IMAGES=N]    make shipped labels and predictions again on films that are drawn here, and compare
#   make verify RETRAIN=1 PROFILE=quick    train, and compare with the margins of several seeds (cxrkit verify --help)
#   make margins STORE=DIR    measure those margins (three seeds of PROFILE, default quick; resumes)
#   make quality-model MIRROR=DIR    the small network that warns of unsuitable images (docs/predict.md)
#   make seeds [STUDY=..]     train what the lessons train with three seeds, for the spread (an hour or more; resumes)
#   make segmenter            the segmenter with ten times its budget, and without its adversarial part (40 minutes; resumes)
#   make severity             six designs of the severity model, from the paper's head to the demo's (half an hour; resumes)
#   make rates                learning rate and steps of each model of Tables 7 and 8, by one small search for all (eight hours; resumes)
#   make grid [CELLS=..]      Tables 7 to 10 with whole budgets and three seeds (hours; resumes; docs/cluster.md for a cluster)
#   make gpu-check            ten minutes on one card: every training's update, memory, speed, two processes (docs/cluster.md)
#   PYTHON=python3.12 make .. another interpreter          FORCE=1 make .. again, though up to date
#   FRESH=1 make demo         train everything here; take no finished stage that comes with the kit
#   JOBS=2 make demo          make the stages first, two at a time, then the lessons, each on one core
#   PROFILE=quick make ..     another profile for demo, report and verify; quick trains all of it in minutes, and shows no finding:
#                             make demo PROFILE=quick FRESH=1 JOBS=2
#   PIP_ARGS=.. make ..       more options for pip, e.g. the index of PyTorch's CPU wheels (README)

PYTHON ?= python3
PIP_ARGS ?=
MIRROR ?=
FORCE ?=
FRESH ?=
JOBS ?=
PROFILE ?=
IMAGES ?=
RETRAIN ?=
STORE ?=
SHIP_ARGS ?=
STUDY ?=
CELLS ?=
GRID_ARGS ?=
RATES_ARGS ?=

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
.PHONY: help install demo mini report lab room site site-test notebooks exercises test test-all test-slow oracles lint seeds \
	segmenter severity weights ship verify margins quality-model rates grid gpu-check docs twins wheels doctor clean distclean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(pip_install) -e ".[dev]"
	$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements"
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/cxrkit reproduce --profile $(or $(PROFILE),demo) $(again) $(fresh) $(if $(JOBS),--jobs $(JOBS))

mini: $(INSTALLED)
	$(BIN)/cxrkit reproduce --profile mini --jobs $(or $(JOBS),2) $(mirror) $(again)

# Long results that the lessons read: cxrkit/storage/recorded_results/*.json.
seeds: $(INSTALLED)
	$(BIN)/python tools/seeds.py $(STUDY)

segmenter: $(INSTALLED)
	$(BIN)/python tools/segmenter_large.py

severity: $(INSTALLED)
	$(BIN)/python tools/severity_designs.py

weights: $(INSTALLED)
	$(BIN)/python tools/ship_weights.py --profile mini $(mirror)

# cxrkit/storage/shipped_artifacts: what a store lacks is taken from there.
ship: $(INSTALLED)
	$(BIN)/python tools/ship.py --profile demo $(if $(STORE),--store "$(STORE)") $(SHIP_ARGS)

# Exit status 2 where something differs. `cxrkit store verify` compares the bytes of a store, this the results.
verify: $(INSTALLED)
	$(BIN)/cxrkit verify --profile $(or $(PROFILE),demo) $(if $(IMAGES),--images $(IMAGES)) $(if $(RETRAIN),--retrain) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(STORE),--out "$(STORE)")

# cxrkit/storage/retraining_margins.json
margins: $(INSTALLED)
	$(BIN)/python tools/retraining_margins.py --profile $(or $(PROFILE),quick) --store "$(STORE)" $(if $(JOBS),--jobs $(JOBS))

# Needs MIRROR=DIR.
quality-model: $(INSTALLED)
	$(BIN)/python tools/fit_quality_model.py --mirror "$(MIRROR)"

# RATES_ARGS such as '--task severity', or '--rows "Brixia alone"': has a row of Tables 9 and 10 converged (tools/learning_rates.py --help).
rates: $(INSTALLED)
	$(BIN)/python tools/learning_rates.py $(RATES_ARGS)

# CELLS are names or beginnings of names; GRID_ARGS such as "--workers 2", "--seeds 0", "--task severity", "--choices" (tools/grid.py --help).
grid: $(INSTALLED)
	$(BIN)/python tools/grid.py $(CELLS) $(GRID_ARGS)

gpu-check: $(INSTALLED)
	$(BIN)/python tools/gpu_check.py

report: $(INSTALLED)
	$(BIN)/cxrkit report --profile $(or $(PROFILE),demo)

lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Lesson 09 as a page; ARGS go to voila, such as ARGS="--Voila.ip=0.0.0.0 --port=80".
room: $(INSTALLED)
	$(pip_install) -e ".[classroom]"
	$(BIN)/python tools/room.py $(mirror) $(ARGS)

# A page that computes in the browser: graphs of the networks and virtual films go to site/build, the page to site/dist.
SITE_ARGS = $(if $(PROFILE),--profile $(PROFILE)) $(if $(STORE),--store "$(STORE)")

site: $(INSTALLED)
	@command -v npm >/dev/null || { echo "make site needs node 20 or later, with npm: apt-get install nodejs npm" >&2; exit 1; }
	$(pip_install) -e ".[dev,onnx]"
	$(BIN)/cxrkit export --onnx site/build/models $(if $(PROFILE),--profile $(PROFILE)) $(if $(STORE),--out "$(STORE)")
	$(BIN)/python tools/site_images.py site/build/films $(SITE_ARGS)
	cd site && npm ci && npm run types && npm run build

site-test: site
	$(BIN)/python tools/site_reference.py site/build/reference $(SITE_ARGS) $(mirror)
	cd site && npm test

# Percent sources -> executed, stripped .ipynb; only what changed.
notebooks: $(INSTALLED)
	$(BIN)/python tools/build_notebooks.py $(again)

# The lessons with their solutions, executed, in notebooks/solved/ (not in git).
exercises: $(INSTALLED)
	$(BIN)/python tools/build_notebooks.py --solved $(again)

# Two processes of one thread each: on two cores faster than one process of two threads. A file stays in one process,
# so that its fixtures are made once.
pytest := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: $(INSTALLED)
	$(pytest) -m "not slow and not integration" tests

test-all: $(INSTALLED)
	$(pytest) -m "not slow" \
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

# The lessons that show real films, run where the classroom set is, for the documentation.
twins: $(INSTALLED)
	$(BIN)/python tools/real_twins.py $(LESSON)

# Without a warning: a dead link inside the documentation is one.
docs: $(INSTALLED)
	$(pip_install) -e ".[dev,docs,croissant]"
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -b html -d build/doctrees . build/docs
	@echo build/docs/index.html

wheels: $(INSTALLED)
	$(pip_install) -e ".[dev,release]"
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m build --no-isolation --wheel --outdir dist packages/cxrkit-models
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_wheels.py dist

doctor: $(INSTALLED)
	$(BIN)/cxrkit doctor

clean:
	rm -rf artifacts notebooks/solved build dist site/build site/dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) site/node_modules
