# Every target uses one virtual environment, .venv, which is made on first use and kept for as long as the contents of
# pyproject.toml and constraints.txt stay the same (times of files do not matter). 'make' alone lists the targets.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup test fast killtest lint reproduce verify report bench notebooks lab data readme clean

# Threads that wait by sleeping: slower when alone (by 1.6 in training), but not brought to a halt by other processes.
test fast verify notebooks: export OMP_WAIT_POLICY = PASSIVE

PYTHON ?= python3
DEPENDENCIES := pyproject.toml constraints.txt
STAMP := .venv/.stamp-$(shell cat $(DEPENDENCIES) | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  variables: PYTHON=python3.12; for reproduce PROFILE=quick|paper DATA=folder CATEGORIES='a b' SEEDS='0 1 2';"
	@echo "  for report NAME=quick"

setup: $(STAMP) ## make .venv with everything (a minute or two, once)

test: $(STAMP) ## run the tests, notebooks included (ADVIT_DATA=folder adds those on real images)
	.venv/bin/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=900

fast: $(STAMP) ## run the tests without notebooks, browser and processes
	.venv/bin/python -m pytest tests -m "not slow"

killtest: $(STAMP) ## kill training and the reproduction 20 times each and compare (half an hour and more)
	.venv/bin/python tests/kill_often.py

lint: $(STAMP) ## check the style
	.venv/bin/ruff check .

reproduce: $(STAMP) ## make every table and figure again, and an HTML report
	.venv/bin/python -m advit reproduce $(if $(DATA),--data '$(DATA)') $(if $(CATEGORIES),-p $(CATEGORIES)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(PROFILE),--profile $(PROFILE))

verify: $(STAMP) ## compare this machine's numbers with the committed ones
	.venv/bin/python -m advit verify

report: $(STAMP) ## the HTML report of what 'make reproduce' wrote
	.venv/bin/python -m advit report $(if $(NAME),--name '$(NAME)')

bench: $(STAMP) ## measure time and memory against the published computations (ten minutes, nothing else running)
	.venv/bin/python -m benchmarks

notebooks: $(STAMP) ## run the notebooks at profile smoke and keep their outputs
	.venv/bin/python -m advit.notebooks
	.venv/bin/python -m advit reproduce --profile smoke

lab: $(STAMP) ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab --notebook-dir=notebooks

data: $(STAMP) ## write the synthetic data set to data/synthetic
	.venv/bin/python -m advit data synth data/synthetic

readme: $(STAMP) ## write the README's tables from results/
	.venv/bin/python -m advit.readme

clean: ## remove .venv, caches and runs/ (never results/ or figures/)
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis build dist advit.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(STAMP):
	@$(PYTHON) -c '' 2>/dev/null || \
		{ echo "make: cannot run '$(PYTHON)'. Install Python 3.11 or newer, or: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: '$(PYTHON)' is" \
		"$$($(PYTHON) -V), but 3.11 or newer is needed. Name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: '$(PYTHON)' lacks the module venv or ensurepip." \
		"On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making .venv and installing advit with everything it needs. This takes a minute or two, once."
	@rm -f .venv/.stamp-*
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@
