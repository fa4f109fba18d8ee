# `make` is the one door: people and CI use the same targets. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CXX ?= g++
ASAN_DIR := build/asan
AARCH64_CXX ?= aarch64-linux-gnu-g++
AARCH64_QEMU ?= qemu-aarch64-static
AARCH64_DIR := build/aarch64
WHEELS := build/wheels
RELEASE := build/release
GPU_SMALL := build/gpu_small
QUICK ?= -m "not slow"
# Two processes of one thread, since threads of two processes on two cores would wait for each other; tests of several
# threads ask for them. A process that is done takes half of what the other has left, so that none waits at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
CLIENT ?= $(patsubst tests/clients/%/,%,$(filter-out %/__pycache__/,$(wildcard tests/clients/*/)))
CSRC := $(wildcard csrc/*.json csrc/*/*.h csrc/*/*.inc csrc/*/*.cpp)
# PYTHONSAFEPATH keeps the folder kernels/ from being imported in place of another project's package of that name.
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo rl-demo compare bench-cpu bench-peers bench-serving test test-all test-clients lint parity bench docs test-asan test-aarch64 test-triton compile-triton compile-triton-sm_90 test-gpu-kit gpu screenshots wheels release-check roofline format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv with everything that demo, test and bench need, and compile the kernels

$(INSTALLED): pyproject.toml setup.py constraints.txt $(CSRC)
	@echo "Setting up $(VENV): packages (about a minute) and C++ kernels (half a minute); needs a C++17 compiler"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -c constraints.txt torch
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@

demo: setup  ## rank real programs of problems that the model in the package has not seen, beside their tests' verdicts
	$(BIN)/codescaler rerank codescaler/examples/mbpp_unseen.jsonl.gz --top-k 4
	@echo "Rank your own: $(BIN)/codescaler rerank problem.md a.py b.py"

# RUN is base, validity, model, tests, mixed, rejection or rejection-KIND. A run that was killed goes on.
rl-demo: setup  ## train a policy on a reward, and evaluate it: RUN=model POLICY=FOLDER PROBLEMS=mbpp.jsonl
	$(BIN)/python examples/rl/demo $(RUN) --policy $(POLICY) --problems $(PROBLEMS) $(OPTIONS)

compare: setup  ## score one workload beside transformers and print parity and speed
	$(BIN)/python benches compare bon8 --layers 4 --rounds 2

# OPTIONS='--layers 7' is for a slow CPU. vLLM is beside it where make build/vllm/.installed has been.
bench-cpu: setup  ## time everything on this CPU beside its peers, and print one table with the targets (an hour)
	$(BIN)/python benches cpu $(if $(wildcard build/vllm/.installed),--vllm build/vllm/bin/python) $(OPTIONS)

bench-peers: setup build/vllm/.installed  ## time the workloads beside transformers and vLLM's CPU build (2 GB, an hour)
	for workload in bon8 bon16 pairs; do \
	  $(BIN)/python benches compare $$workload --vllm build/vllm/bin/python --save || exit 1; done

# Fifteen minutes on two cores that do nothing else.
bench-serving: setup build/vllm/.installed build/openrlhf/.installed  ## load the server as trainers do, beside vLLM's and OpenRLHF's
	for shape in 30m 0.6b; do \
	  $(BIN)/python benches serving --shape $$shape --vllm build/vllm/bin/python --openrlhf build/openrlhf/bin/python --save $(OPTIONS) || exit 1; \
	done

build/openrlhf/.installed: benches/tools/install_openrlhf.py | setup
	$(BIN)/python benches install_openrlhf build/openrlhf

build/vllm/.installed: benches/tools/install_vllm.py | setup
	$(BIN)/python benches install_vllm build/vllm

# What takes one core runs two at a time, the longest first, each one's output in one piece.
test: setup  ## lint, types, C++ under sanitizers and for Arm, Triton kernels, the GPU kit on the CPU, the test suite without its slow tests
	$(MAKE) -j2 --output-sync=target lint test-aarch64 test-gpu-kit test-asan compile-triton-sm_90
	$(MAKE) test-triton
	$(PYTEST) --benchmark-disable $(QUICK)

test-all:  ## what `make test` does, and its slow tests: every isolation for every user, every family in the interpreter
	$(MAKE) test QUICK=

test-gpu-kit: setup  ## every part of the GPU kit on the CPU, on tiny shapes in Triton's interpreter
	$(BIN)/python benches gpu --small --out $(GPU_SMALL)

# A folder of tests/clients is a client. With a requirements.txt it has an environment of its own, else it runs in .venv.
# What a no_deps.txt beside it lists is installed without what that requires.
test-clients: setup $(patsubst tests/%/requirements.txt,build/%/.installed,$(wildcard $(CLIENT:%=tests/clients/%/requirements.txt))) $(if $(filter vllm,$(CLIENT)),build/vllm/.installed)  ## real clients of the server, each in its own environment; CLIENT=cohere runs one
	@failed=; for client in $(CLIENT); do \
	  python=build/clients/$$client/bin/python; test -x $$python || python=$(BIN)/python; \
	  CODESCALER_PYTHON=$(abspath $(BIN)/python) $$python -m pytest --rootdir=. tests/clients/$$client || failed="$$failed $$client"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

build/clients/%/.installed: tests/clients/%/requirements.txt
	$(PYTHON) -m venv --clear build/clients/$*
	build/clients/$*/bin/python -m pip install -q pytest -r $<
	$(if $(wildcard tests/clients/$*/no_deps.txt),build/clients/$*/bin/python -m pip install -q --no-deps -r tests/clients/$*/no_deps.txt)
	@touch $@

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.h csrc/*/*.inc csrc/*/*.cpp
	$(BIN)/mypy

parity: setup  ## scores of every family and head beside transformers, one table
	$(BIN)/python benches parity

bench: setup  ## time operations and workloads
	$(BIN)/python -m pytest benches --benchmark-only --benchmark-columns=median,iqr,rounds

docs: setup  ## build the site of docs/ in build/docs; fails on a broken link
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

# One object a source: each instruction set has its own flags, read from csrc/build_flags.json so that they stand in one place.
test-asan:  ## the C++ kernels against plain loops, under AddressSanitizer and UBSan
	mkdir -p $(ASAN_DIR)
	CXX=$(CXX) $(PYTHON) csrc/tests/build_core.py $(ASAN_DIR)
	$(ASAN_DIR)/test_core

# Without the two programs it says so and is green: a developer's machine need not have them.
test-aarch64:  ## the C++ kernels for Arm, cross-compiled, against plain loops in an emulator; skipped where either is not there
	@if command -v $(AARCH64_CXX) > /dev/null && command -v $(AARCH64_QEMU) > /dev/null; then \
	  mkdir -p $(AARCH64_DIR) && \
	  CXX=$(AARCH64_CXX) $(PYTHON) csrc/tests/build_core.py $(AARCH64_DIR) --machine aarch64 --sanitize undefined --static && \
	  OMP_WAIT_POLICY=passive $(AARCH64_QEMU) -cpu max $(AARCH64_DIR)/test_core; \
	else \
	  echo "skipped: test-aarch64 needs $(AARCH64_CXX) and $(AARCH64_QEMU) (on Debian: g++-aarch64-linux-gnu, qemu-user-static)"; \
	fi

# OpenBLAS has one thread too: the interpreter's products are too small to share.
test-triton: setup  ## the Triton kernels and whole forwards in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 OPENBLAS_NUM_THREADS=1 $(PYTEST) $(QUICK) tests/kernels tests/ops tests/engine/test_cuda_graphs.py tests/engine/test_exits.py
	@echo "Proven in the interpreter: indexing, masks, formulas, float32 and float16 storage, bits of our kernels."
	@echo "Not proven without a GPU: bfloat16 arithmetic (the interpreter gets it wrong), the rounding of tensor cores and"
	@echo "of approximate exp2 and rsqrt, races and synchronisation, bits of cuBLAS products, and any speed."

compile-triton: setup  ## compile every Triton kernel for six GPUs, without one, and hold it against the committed table
	$(BIN)/python benches compile_triton

compile-triton-sm_90: setup
	$(BIN)/python benches compile_triton --targets sm_90

# BARE=1: this Python as it is, with the packages that it has: no environment, no network. A card's machine is often so.
gpu: $(if $(BARE),build/.bare,setup)  ## prove and measure everything on a GPU, in two calls of 7 minutes; SMALL=1: on a CPU, tiny; BARE=1: no set-up
	$(if $(BARE),$(PYTHON),$(BIN)/python) benches gpu $(if $(SMALL),--small) $(OPTIONS)

build/.bare: pyproject.toml setup.py $(CSRC)
	$(PYTHON) -m pip install -q --no-build-isolation --no-deps --no-index -e .
	@mkdir -p build && touch $@

screenshots: setup build/clients/browser/.installed  ## draw the pictures of the page in docs/ again, with headless Chromium
	build/clients/browser/bin/python benches page_screenshots

# Of each python3.N on the PATH. The compilers are g++ and Debian's for AArch64; Zig and auditwheel come from PyPI.
wheels: setup $(RELEASE)/.installed  ## the source archive and every wheel, in build/wheels: manylinux of two machines, and the pure one
	$(RELEASE)/bin/python benches/tools/wheels.py $(WHEELS) $(OPTIONS)
	for wheel in $(WHEELS)/*manylinux*.whl; do $(RELEASE)/bin/auditwheel show $$wheel || exit 1; done

$(RELEASE)/.installed:
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install -q 'ziglang>=0.14' 'auditwheel>=6.2' 'pybind11>=2.12' 'setuptools>=77'
	@touch $@

release-check: setup  ## is everything ready to publish: version, changelog, tag, clean tree, generated pages, wheels
	$(BIN)/python benches release_check $(WHEELS)

roofline: setup  ## predict an H100's times from bytes and operations
	$(BIN)/python benches roofline

format: setup  ## rewrite Python and C++ in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*/*.h csrc/*/*.inc csrc/*/*.cpp

clean:  ## remove what was built
	rm -rf build $(VENV) codescaler/*.so *.egg-info
