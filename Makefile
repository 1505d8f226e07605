# make demo    install, then run the whole way once into out/demo
# make test    install, then lint and run every test
# make setup   install only; make lint, make format, make lock, make clean

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint format lock clean

demo: setup
	$(BIN)/mvq demo --out out/demo

test: lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup:
	@$(PYTHON) scripts/setup.py

lock: setup
	$(BIN)/python scripts/lock.py

clean:
	rm -rf out build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
