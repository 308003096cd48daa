# Three commands a newcomer needs:
#   make report              from a fresh clone to reports/scaling.pdf (STUDY=movielens for another study)
#                            `make pause` ends it in order; typed again, it goes on where it was
#   make quick               the same of a study of about four minutes
#   make test                from a fresh clone to a passed test suite
# Both create .venv and install on first use, and again when pyproject.toml or constraints.txt change.

PYTHON ?= python3
STUDY ?=
FAULTS ?= 200
FUZZ ?= 100000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_STORE := file://tests/benchmarks/.benchmarks

.PHONY: install report quick pause test test-slurm test-simulations test-slow test-faults bench bench-compare lint docs notebook clean
.DEFAULT_GOAL := report

# An environment to activate: . .venv/bin/activate
install: $(INSTALLED)

report: $(INSTALLED)
	@$(BIN)/python workflow/run.py reports/scaling.pdf $(if $(STUDY),--config study=$(STUDY))

quick: $(INSTALLED)
	@$(BIN)/python workflow/run.py reports/scaling.pdf --config study=quick

pause: $(INSTALLED)
	@$(BIN)/python workflow/run.py --pause

# Two processes, of one thread each but where a cell takes more.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not simulation and not slow and not gpu and not faults and not slurm"

# What a Slurm is asked for, and the workflow on one of one node, started as root (apt-get install slurm-wlm munge); three minutes.
test-slurm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests/workflow

# Whether the intervals and the rules of the claims are wrong as seldom as they promise; four minutes on one core.
test-simulations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m simulation tests/analysis

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu"

# Real faults, and a table of how many were put in and survived: FAULTS signals and damages, FUZZ generated files, drawn
# from SEED. An hour and more; FAULTS=20 FUZZ=5000 takes a tenth of it.
test-faults: $(INSTALLED)
	FAULTS=$(FAULTS) FUZZ=$(FUZZ) FAULTS_SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/run/faults

bench: $(INSTALLED)
	$(BIN)/python -m harness.run.allocator \
	  $(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-group-by=group -o addopts= \
	  --benchmark-storage=$(BENCH_STORE) --benchmark-autosave

# Two commits: `make bench` in each, then name both as git shows them (make bench-compare A=1a2b3c4 B=5d6e7f8).
bench-compare: $(INSTALLED)
	$(BIN)/pytest-benchmark --storage $(BENCH_STORE) compare --group-by=fullname --columns=median,iqr,rounds \
	  '*_$(A)*' '*_$(B)*'

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/python workflow/lint.py

# The documentation as a site, build/docs/docs/index.html; a broken link is an error.
docs: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/docs

# docs/notebook.ipynb with fresh output.
notebook: $(INSTALLED)
	$(BIN)/python docs/run_notebook.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,measure,kernels,slurm]'
	@touch $@

clean:
	rm -rf $(VENV) .snakemake .cache logs build reports/scaling.pdf reports/scaling.html
