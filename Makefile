# SPDX-License-Identifier: MIT
# make demo · make test · make bench …: each target only needs Python 3.10 or later, a C++20 compiler and make.

PYTHON ?= python3
PYTEST ?=
WORKERS ?= 2
BENCH ?=
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --constraint constraints.txt
SOURCES := CMakeLists.txt pyproject.toml $(wildcard native/*.cpp native/*.hpp)
LINTED := $(wildcard src tests benchmarks experiments scripts)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
MAKEFLAGS += --no-print-directory

.PHONY: help demo app docs test test-fast test-toolkits hooks lint types stubs bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    install into $(VENV), segment two photographs, print where the pictures are'
	@echo 'make app     the page in a browser: a photograph, its labels, the sliders'
	@echo 'make test    lint, types, tests        (PYTEST="-k lattice" selects tests, WORKERS=4 uses four processes)'
	@echo 'make test-fast  the quick tests: without slow ones and those in the interpreter of Triton'
	@echo 'make test-toolkits  tests with torchvision, timm and segmentation-models-pytorch, installed in a separate folder'
	@echo 'make docs    the documentation site, in build/site'
	@echo 'make bench   speed and memory compared with pydensecrf2, as table and CSV'
	@echo 'make hooks   ruff, clang-format and pyright before every commit, by pre-commit'
	@echo 'make clean   remove $(VENV), build and demo-output'

demo: $(VENV)/.stamp-core
	@$(VENV)/bin/crfrnn demo -o demo-output --overwrite

app: $(VENV)/.stamp-web
	$(VENV)/bin/crfrnn app

docs: $(VENV)/.stamp-dev
	$(PY) scripts/docs.py

# Keep the tests of a file in one process, so that shared fixtures are created once; tests/conftest.py orders the files.
WORKING := -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint types
	$(PY) -m pytest $(WORKING) $(PYTEST)

test-fast: $(VENV)/.stamp-dev
	$(PY) -m pytest $(WORKING) -m 'not slow and not interpreter' $(PYTEST)

# Keep torchvision out of the environment: with a CPU build of torch it breaks Lightning and transformers.
test-toolkits: build/toolkits/.stamp
	PYTHONPATH=build/toolkits $(PY) -m pytest -q tests/toolkits/test_toolkits_torchvision.py

build/toolkits/.stamp: $(VENV)/.stamp-dev constraints.txt
	$(INSTALL) --no-deps --upgrade --target build/toolkits torchvision timm segmentation-models-pytorch
	@touch $@

lint: $(VENV)/.stamp-dev
	$(PY) -m ruff check $(LINTED)
	$(PY) -m ruff format --check $(LINTED)
	$(VENV)/bin/clang-format --dry-run -Werror $(wildcard native/*.[ch]pp native/tools/*.[ch]pp)

types: $(VENV)/.stamp-dev
	$(PY) -m pyright

# Type stubs of the compiled module, for pyright.
stubs: $(VENV)/.stamp-dev
	$(PY) scripts/stubs.py

hooks: $(VENV)/.stamp-dev
	$(INSTALL) pre-commit
	$(PY) -m pre_commit install

bench: $(VENV)/.stamp-dev
	$(PY) benchmarks/engine.py $(BENCH)

clean:
	rm -rf $(VENV) build demo-output

# The environment and the build tools of the native module. cmake is installed from PyPI if it is missing or too old.
$(VENV)/.stamp-tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@case "$$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')" in \
	  3.2[1-9].*|3.[3-9]*|[4-9].*) cmake= ;; *) cmake=cmake ;; \
	esac; set -x; $(INSTALL) nanobind ninja scikit-build-core $$cmake
	@touch $@

# On Linux the default torch wheel is a CUDA build of several gigabytes. The CPU build has +cpu in its version: try pip's
# configured index first, then PyTorch's index of CPU wheels. On other systems the default wheel is a CPU build.
$(VENV)/.stamp-torch: $(VENV)/.stamp-tools
	@set -e; version=$$(sed -n 's/^torch==//p' constraints.txt); \
	if [ "$$(uname -s)" != Linux ]; then $(INSTALL) torch==$$version; \
	elif $(INSTALL) torch==$$version+cpu 2>/dev/null; then :; \
	else $(INSTALL) --extra-index-url https://download.pytorch.org/whl/cpu torch==$$version+cpu; fi; \
	$(PY) -W ignore -c 'import torch; print("torch", torch.__version__); assert torch.version.cuda is None, "a CUDA build of torch"'
	@touch $@

# Compilation takes longest, so it runs while pip downloads torch. It uses the build folder of the editable installation
# below, which then has nothing left to compile.
$(VENV)/.stamp-native: $(VENV)/.stamp-tools $(SOURCES)
	@mkdir -p build/native
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MAKEFLAGS= $(PY) -c 'import scikit_build_core.build as b; b.build_editable("build/native")' \
	  >build/native/log 2>&1 || { cat build/native/log; exit 1; }
	@touch $@

# Editable: changes in src/ take effect at once, and changes in native/ trigger an incremental rebuild in build/.
# Build isolation is off, so that the constraints also apply to the build.
$(VENV)/.stamp-core: $(VENV)/.stamp-tools $(SOURCES)
	@$(MAKE) -j2 $(VENV)/.stamp-torch $(VENV)/.stamp-native
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(VENV)/.stamp-web: $(VENV)/.stamp-core
	$(INSTALL) --no-build-isolation --editable '.[demo,web]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-tools $(SOURCES)
	@$(MAKE) -j2 $(VENV)/.stamp-torch $(VENV)/.stamp-native
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $(VENV)/.stamp-core $(VENV)/.stamp-web $@
