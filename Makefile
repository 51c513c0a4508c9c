PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LINKS := build/links

.PHONY: setup demo test lint links clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/toprovar-compile nano --output build/nano --force
	$(BIN)/toprovar run build/nano --demo --grid --output build/demo.png

test: setup
	$(BIN)/pytest -n 2

# The package as one folder of links: PYTHONPATH=build/links runs the tree where nothing can be installed.
links:
	rm -rf $(LINKS) && mkdir -p $(LINKS)/toprovar
	ln -s $(CURDIR)/toprovar/* $(LINKS)/toprovar
	ln -s $(patsubst %,$(CURDIR)/%,$(filter-out toprovar,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))) $(LINKS)/toprovar

# mypy cannot see the folders' mapping into the package, so it reads the links; from inside, because it
# would look for `toprovar` in its working directory first.
lint: setup links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(LINKS) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p toprovar

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
