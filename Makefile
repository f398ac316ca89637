# README's commands are `make demo` and `make test`; everything works from a fresh clone with python3, git, make and a C++ compiler.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
# one worker a core; the suite is written so that order and neighbours do not matter
JOBS   ?= $(shell nproc)

.PHONY: demo test check fmt bench wheel arm-check gpu-check clean

$(VENV)/.base: pyproject.toml CMakeLists.txt $(wildcard edge_runtime/kernels/src/*)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --no-warn-script-location -e ".[export]"
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet -e ".[test,oracle]"
	@touch $@

demo: $(VENV)/.base
	$(PY) examples/demo.py

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) tools/lint_imports.py
	$(PY) -m pytest -n $(JOBS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) tools/lint_imports.py
	$(PY) -m pytest -n $(JOBS) tests/unit tests/contract tests/hostile

fmt: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test
	$(PY) benchmarks/bench_kernels.py

wheel: $(VENV)/.test
	$(PY) -m build --outdir dist .

arm-check:
	bash tests/arm/run.sh

gpu-check:
	@echo "gpu-check: SKIPPED: this version has no CUDA kernels yet; nothing was checked on a GPU." >&2

clean:
	rm -rf build dist $(VENV)
