# Everything runs in .venv; `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint fmt clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,oracles,ray]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
		waymo-open-dataset-tf-2-12-0 nuscenes-devkit pytorch-fid
	touch $@

demo: $(VENV)/installed
	$(BIN)/gwm demo -o demo

test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build demo
