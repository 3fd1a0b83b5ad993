# One command each: `make test` checks everything, `make demo` runs the whole chain on the music in examples/.
# Paths here are relative, so that a checkout in a folder with spaces in its name works.

PYTHON ?= python3
INSTALLED := .venv/.installed

.PHONY: help setup test lint types demo demo-train bench clean

help:
	@echo "make test    set up .venv, then lint, types and the test suite"
	@echo "make demo    set up .venv, then write a clip in demo/, with the model that travels with dualdiff; seconds"
	@echo "make demo-train  set up .venv, then the whole chain on examples/music in demo-train/, a new folder; minutes"
	@echo "make lint    ruff: rules and format        make types   mypy"
	@echo "make bench   measure the chain             make clean   remove .venv, demo/, demo-train/ and caches"

setup: $(INSTALLED)

# Everything pip says goes to stderr: the last line of `make demo` on stdout is the clip.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "error: $(PYTHON) is not Python 3.10 or newer; name one with make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up .venv (downloads torch: minutes)" >&2
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" >&2
	@touch $(INSTALLED)

test: lint types
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: setup
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

types: setup
	.venv/bin/python -m mypy

demo: setup
	@mkdir -p demo && cd demo && \
		../.venv/bin/dualdiff generate --game "Pekka Kana 2:0.7,Freedoom:0.3" --length 20 --out "$$PWD" --force

demo-train: setup
	@PATH="$$PWD/.venv/bin:$$PATH" sh examples/demo.sh demo-train

bench: setup
	.venv/bin/python benchmarks/chain.py

clean:
	rm -rf .venv demo demo-train build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
