# `make check` runs every check that CI runs, but for the tests; `make test` runs those.
.PHONY: check test format

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:
	pytest -n 2 --dist loadfile

format:
	ruff check --fix .
	ruff format .
