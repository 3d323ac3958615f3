# `make run` learns four rooms with and without recall traces, then Hopper with them; `make test` passes the
# tests. Each makes its own environment.
VENV ?= .venv
BIN := $(VENV)/bin
# The newest of python3.11 to python3.14 that has wheels, unless it is named.
PYTHON ?=
# One thread: it decides the bits of a run, and small networks are fastest with one.
export OMP_NUM_THREADS ?= 1

.PHONY: run test test-all lint docs clean

run: $(VENV)/.test
	for recall in none backtracking; do \
		$(BIN)/python recipes/a2c_recall.py env.size=15 env.start=uniform recall=$$recall \
			'seeds=[0,1,2,3,4]' collector.total_frames=20_480 eval.stop_at_target=true \
			run_dir=runs/first_minute/$$recall resume=auto || exit; \
	done
	$(BIN)/python -m torchrl_recall.collect runs/first_minute/none runs/first_minute/backtracking \
		out=runs/first_minute
	@echo "Above: actor-critic in the four rooms, alone and with recall traces (runs/first_minute/figure.png)."
	@echo "Now SAC with recall on Hopper-v5, some five minutes; Ctrl-C saves, and 'make run' goes on:"
	$(BIN)/python recipes/sac_recall.py env.name=Hopper-v5 collector.total_frames=10_000 \
		eval.interval=2_000 run_dir=runs/hopper resume=auto
	@echo "To compare methods on it:"
	@echo "  $(BIN)/python recipes/sac_recall.py -m env.name=Hopper-v5 recall=none,backtracking seed=0,1,2"
	@echo "  $(BIN)/python -m torchrl_recall.collect runs/Hopper-v5_*"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(VENV)/.test $(VENV)/.dm_control # with the slow proofs, and with MuJoCo 3 for dm_control
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"
	MUJOCO_GL=egl PYTHONPATH=$(VENV)/dm_control $(BIN)/python -m pytest tests/trainers/tasks/test_dm_control.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy torchrl_recall recipes benchmarks
	$(BIN)/python .ci/imported_types.py

docs: $(VENV)/.docs # the site, in build/docs: warnings, broken links among them, are errors
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "Open build/docs/index.html."

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

$(VENV)/.dm_control: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --target $(VENV)/dm_control 'mujoco<4' dm_control shimmy
	rm -rf $(VENV)/dm_control/numpy* $(VENV)/dm_control/gymnasium* # which the environment has
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

$(VENV)/bin/python:
	.ci/make_venv $(VENV) $(PYTHON)

clean:
	rm -rf $(VENV) build dist *.egg-info
