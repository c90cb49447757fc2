# Everything a user or a developer runs. Each target sets up first, which is a moment's work when
# nothing has changed; see scripts/setup.sh for PYTHON=... and TORCH=...

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench faults lint clean

package := ros2_ws/src/async_mbrl
benchmarks := control_jitter model_speed
env := . scripts/env.sh

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup:  ## install pinned packages into .venv and build the workspace
	@scripts/setup.sh

demo: setup  ## train the simulated 7-DoF arm live, evaluate, write runs/latest (DEMO_ARGS="...")
	@$(env) && async-mbrl up sim $(DEMO_ARGS)

test: setup  ## run every test that needs no special hardware (PYTEST_ARGS="...")
	@$(env) && cd $(package) && python -m pytest $(PYTEST_ARGS)

bench: setup  ## run the benchmarks that finish in minutes, results in benchmarks/results
	@$(env) || exit; failed=0; for name in $(benchmarks); do \
	echo "== $$name"; python benchmarks/$$name.py || failed=1; done; exit $$failed

faults: setup  ## the fault suite on the live graph (SEED=n, FULL=1: the long form, FAULTS_ARGS="...")
	@$(env) && cd $(package)/tests && PYTHONPATH=$$PWD:$$PYTHONPATH python -m faults \
	--seed $(or $(SEED),0) $(if $(FULL),--full) $(FAULTS_ARGS)

lint: setup  ## check style and types
	@$(env) && ruff check . && mypy

clean:  ## remove what set-up made; runs stay
	rm -rf .venv .setup.log .setup.lock ros2_ws/build ros2_ws/install ros2_ws/log
	rm -rf .mypy_cache .ruff_cache $(package)/*.egg-info
	find $(package) -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf $(package)/.pytest_cache
