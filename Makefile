# `make course` runs the course, `make test` proves that it works. Each target sets .venv up if need be.
# Without make: python -m pip install -r requirements.txt -e . ; then `course run`, `pytest` and `jupyter lab`.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# One process and one thread for each core; a file stays in one process, and the long ones, notebooks, come first
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
# Idle threads of torch wait instead of spinning (see THREADS in course_utils/core/settings.py)
export OMP_WAIT_POLICY ?= PASSIVE

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

course: .venv/.ready ## Execute every chapter into build/course (ARGS=--student: those with exercises)
	$(BIN)/course run $(ARGS)

lab: .venv/.ready ## Open JupyterLab on notebooks/
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/ $(ARGS)

demo: .venv/.ready ## Open every slider on one page, for the lecture hall (Voila)
	JUPYTER_PATH=notebooks $(BIN)/voila notebooks/examples/gallery.ipynb --template=lecture $(ARGS)

test: lint ## Test everything: lint, unit tests, every notebook
	COURSE_STRICT=1 $(PYTEST) $(ARGS)

long: lint ## Open and run in JupyterLab, in a browser, the chapters that are too long for `make test`
	COURSE_STRICT=1 $(BIN)/python -m pytest -m long $(ARGS)

check: lint ## Test the fast part: lint and the quick unit tests
	$(PYTEST) tests -m "not slow and not full" $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

html: .venv/.ready ## Export the chapters, as they are stored, to web pages in build/html
	$(BIN)/course html $(ARGS)

student: .venv/.ready ## Write notebooks/ from notebooks/solutions/
	$(BIN)/course student $(ARGS)

build: .venv/.ready ## Re-execute notebooks/solutions/ in place, then write notebooks/
	$(BIN)/course build $(ARGS)

extras: .venv/.ready ## Install what only some tests need: other people's attacks, a browser's driver
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r tests/extras.txt

bench: .venv-bench/.ready ## Measure the attacks beside other people's (hours; ARGS=--quick: two minutes)
	OMP_NUM_THREADS=1 PYTHONPATH=tests .venv-bench/bin/python -m bench $(ARGS)

margins: .venv/.ready ## Measure how far the claims are from failing, over seeds and simulated machines (an hour and more)
	$(BIN)/course margins $(ARGS)

clean: ## Remove what was built; downloads in data/cache and .venv stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	find course_utils tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# One call of pip for both: torch, once chosen by the pinned list, cannot be replaced by another build.
define set_up
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "The course needs Python 3.11 or newer. Name one: make PYTHON=python3.12" >&2; exit 1; }
@echo "Setting up $(@D): a few minutes, once."
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt -e .
endef

.venv/.ready: requirements.txt pyproject.toml
	$(set_up)
	@touch $@

.venv-bench/.ready: requirements.txt pyproject.toml tests/bench/requirements.txt
	$(set_up)
	.venv-bench/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r tests/bench/requirements.txt
	@touch $@

.PHONY: help course lab demo test long check lint html student build extras bench margins clean
