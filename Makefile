# Files of tests are shared out to so many processes; some tests start several of their own.
WORKERS ?= 2
# PYTHON is read when .venv is made. DEVICE stays what .venv was made for until it is given again.
PYTHON ?= python3
INSTALLED := $(wildcard .venv/.installed-*)
ifdef INSTALLED
DEVICE ?= $(firstword $(patsubst .venv/.installed-%,%,$(INSTALLED)))
else
DEVICE ?= $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo cuda || echo cpu)
endif
ifeq ($(filter cpu cuda,$(DEVICE)),)
$(error DEVICE=$(DEVICE): choose cpu or cuda)
endif

STAMP := .venv/.installed-$(DEVICE)
LOCK := requirements/$(DEVICE).txt
BIN := .venv/bin
SOURCES := $(wildcard ctr kernels datasets remote tools)

.DEFAULT_GOAL := help
.PHONY: help setup test lint types format demo bench fuzz chaos clean

help:  ## list the targets
	@grep -E '^[a-z]+: .*##|^[a-z]+:  ##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10
	@echo
	@echo 'PYTHON=python3.12  interpreter of a new .venv (3.11 or 3.12)'
	@echo 'DEVICE=cpu|cuda    what to install; cuda where nvidia-smi finds a GPU'
	@echo 'WORKERS=4          processes that tests are shared out to'
	@echo 'ARGS="-k gsu -x"   passed to pytest, the demo or chaos'

setup: $(STAMP)  ## make .venv from the lock file; at once if it is up to date

# The environment is always made anew: fbgemm-gpu and fbgemm-gpu-cpu own the same files, and pip
# would leave behind what a lock file no longer names.
$(STAMP): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
		echo "Python 3.11 or 3.12 is needed and '$(PYTHON)' is neither: make setup PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' cannot make environments: install its venv module (Debian: apt install python3-venv)"; exit 1; } >&2
	$(PYTHON) -m venv --clear .venv
# torch by itself, since CPU builds have an index of their own that need not be asked for the rest;
# setuptools with it, since the next call builds one package from source with the locked version.
	$(BIN)/pip install --no-deps $(TORCH_INDEX_$(DEVICE)) \
		$(shell grep -E '^(torch|setuptools)=' $(LOCK))
	$(BIN)/pip install --no-deps --no-build-isolation -r $(LOCK)
	@$(BIN)/python -c 'import torch, fbgemm_gpu, torchrec; \
		assert (torch.version.cuda is None) == ("$(DEVICE)" == "cpu"), torch.__version__' || { \
		echo "What was installed for DEVICE=$(DEVICE) does not load (see above); cuda needs NVIDIA's driver"; exit 1; } >&2
# A path file rather than an editable install: it needs no build, and every top-level folder is seen.
	@pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lifelong_ctr.pth"
	@touch $@

# Few retries: where this index is out of reach, a wheel from elsewhere can still serve.
TORCH_INDEX_cpu := --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu

test: setup lint  ## lint, then run the tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: setup  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

types: setup  ## check types
	$(BIN)/mypy $(SOURCES)

format: setup  ## fix imports and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup  ## run the demo: a synthetic world, from raw tables to a report
	$(BIN)/python -m tools.demo $(ARGS)

bench: setup  ## check the kernels, then time them on this machine
	$(BIN)/python -m kernels.benchmarks $(ARGS)

# Each case is a test: FUZZ_CASES=200 make test ARGS="tests/fuzz/test_store.py -k '[137]'" replays one.
fuzz: setup  ## damage files of every kind in 200 ways each (FUZZ_CASES=n: in n): for every night
	FUZZ_CASES=$${FUZZ_CASES:-200} $(BIN)/pytest tests/fuzz $(ARGS)

chaos: setup  ## kill runs at random moments and resume them: up to 20 minutes
	$(BIN)/python -m tools.chaos $(ARGS)

clean:  ## remove .venv and the tools' caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
