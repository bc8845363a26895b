# make demo: everything from nothing (environment, a real sweep, the table, the verdicts, the report)
# make test: lint, types, import contract and the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
RESULTS ?= results
BIN := .venv/bin

.PHONY: install demo test slow docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"attnbench needs Python 3.11 or newer, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/attnbench run jobs/quickstart.yaml --results $(RESULTS)
	$(BIN)/attnbench compare quickstart --metric test_accuracy --baseline softmax --results $(RESULTS)
	$(BIN)/attnbench claims verify attentiondrop --from-sweep quickstart --results $(RESULTS)
	$(BIN)/attnbench report --sweep quickstart --results $(RESULTS) --out $(RESULTS)/report.html

test: install
	$(BIN)/python -m pytest

slow: install
	$(BIN)/python -m pytest -m slow

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv build dist *.egg-info
