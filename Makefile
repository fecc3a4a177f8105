# make lab: set up, then JupyterLab.   make test: set up, then every test and every notebook.   make help: the rest.
VENV   ?= .venv
PYTHON ?= python3
PY      = $(VENV)/bin/python
READY   = $(VENV)/.ready
BROWSE  = $(if $(or $(DISPLAY),$(WAYLAND_DISPLAY),$(filter Darwin,$(shell uname))),,--no-browser)
ROOT_OK = $(if $(filter 0,$(shell id -u)),--allow-root,)
NN      = $(if $(LESSON),$(shell echo 0$(LESSON) | sed 's/.*\(..\)$$/\1/'))

.PHONY: help setup lab app test test-fast lint build check html site slides clean

help:
	@echo "make lab                  set up, then open JupyterLab on the notebooks (prints its address)"
	@echo "make app                  the small Stable Diffusion behind a web page, on this machine alone"
	@echo "make test [LESSON=3]      set up, then all tests and notebooks (or those of one lesson)"
	@echo "make test-fast            the tests without the notebooks, the browser and what is slow"
	@echo "make lint                 is the code readable: ruff, widths, lengths of functions"
	@echo "make build [REPO=a/b]     lessons -> notebooks, what is out of date; REPO sets the public address"
	@echo "make check                says what is out of date, runs nothing"
	@echo "make html                 the notebooks as web pages, in html/"
	@echo "make slides               figures of the lessons as slides, in build/slides/"
	@echo "make site                 the course as a web site, in build/site/ (runs no notebook)"

setup: $(READY)

$(READY): pyproject.toml
	@echo "== Setting up in $(VENV): one pip install, a few minutes the first time (about 6 GB with torch)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --upgrade pip
	@$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $(READY)
	@echo "== Ready"

lab: $(READY)
	@echo "== JupyterLab: open the address below that starts with http://127.0.0.1 (stop it with Ctrl-C)"
	$(VENV)/bin/jupyter lab $(BROWSE) $(ROOT_OK) --ip=127.0.0.1 --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/01_diffusion_fundamentals.ipynb $(LAB_ARGS)

app: $(READY)
	@$(PY) -c 'import gradio' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[web]'
	$(PY) -m course_lib.web $(APP_ARGS)

test: $(READY)
	$(PY) tools/run_tests.py $(NN)

test-fast: $(READY) lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal -m "not browser and not slow"

lint: $(READY)
	$(PY) tools/lint.py

build: $(READY)
	$(PY) tools/build.py $(NN) $(if $(REPO),--repo $(REPO)) $(if $(FORCE),--force)

check: $(READY)
	$(PY) tools/build.py --check
	$(PY) tools/cards.py --check
	$(PY) tools/course_plan.py --check
	$(PY) tools/misconceptions.py --check

slides: $(READY)
	$(PY) tools/slides.py

html: $(READY)
	$(VENV)/bin/jupyter nbconvert --to html --output-dir html notebooks/*.ipynb solutions/*.ipynb exercises/*.ipynb

site: $(READY)
	@$(PY) -c 'import myst_nb, sphinx_book_theme' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[site]'
	rm -rf build/site
	$(PY) docs/site/stage.py build/site-src
	$(PY) -m sphinx -W --keep-going -E -q -c docs/site -d build/site-doctrees build/site-src build/site

clean:
	rm -rf html build *.egg-info      # runs/ holds your trainings: delete it yourself
