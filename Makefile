# Two commands do everything, set-up included: `make demo` and `make test`.
# `make test` and `make test-slow` are what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2

.PHONY: demo docs test test-slow lint clean

$(BIN)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(BIN)/installed
	$(BIN)/glpose-stage run -p demo

docs: $(BIN)/installed
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(BIN)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n $(TEST_PROCESSES)

test-slow: $(BIN)/installed
	$(BIN)/pytest -n $(TEST_PROCESSES) -m slow

clean:
	rm -rf $(VENV) work site .pytest_cache .ruff_cache
