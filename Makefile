PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check slow docs

demo: .venv/installed
	$(BIN)/clip-decomp demo --out runs/demo

# Tests of one file stay together: they share models.
test: .venv/installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile

slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n auto --dist loadfile
	$(BIN)/mkdocs build --strict --quiet

docs: .venv/installed
	$(BIN)/mkdocs build --strict

# torch and torchvision come from the package index together, so that they fit each other.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
