# `make demo` and `make test` need nothing but Python 3.11 or later, as the exact versions in constraints.txt do, and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DOCS_STAMP := $(VENV)/installed-docs
export TOKENIZERS_PARALLELISM = false
# Modules that pytest rewrites are kept, or each of some hundred processes that tests start would do so for a second.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test lint check docs full bench stability families compat clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the example claims, each with its verdict
	$(BIN)/python -m pytest example_circuits -p no:randomly -n 2 --dist loadscope

# Both at once: mypy has but one thread.
test: $(STAMP) ## what every change has to pass, in less than eight minutes on two cores
	$(MAKE) --jobs=2 lint check

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Of the example claims tests/long_claims.txt names those that take longest, or say of another program what is said of one;
# `make demo` and `make full` check them. SCRUB_PROFILE is quick or full (tests/sizes.py): how many networks, claims and mutants are made up,
# how often a dice is thrown, and whether processes that tests start are copies of one that has imported torch (tests/warm_python.py).
check: $(STAMP)
	$(BIN)/python -m pytest tests example_circuits -n 2 --dist loadgroup $(if $(filter full,$(SCRUB_PROFILE)),,@tests/long_claims.txt)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

docs: $(DOCS_STAMP) ## the documentation, in site/; a broken link is an error (--quiet would hide it from --strict)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(STAMP) ## the figures of docs/figures.md, on one thread
	$(BIN)/python benchmarks/brackets_table.py
	$(BIN)/python benchmarks/donor_search.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/wrong_verdicts.py
	$(BIN)/python -m benchmarks.mutants
	$(BIN)/python -m benchmarks.exam
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/latents.py
	$(BIN)/python -m benchmarks.each
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python -m benchmarks.peers

families: $(STAMP) ## docs/families.md: which families of networks are read, held against their own hooks
	$(BIN)/python -m benchmarks.families

stability: $(STAMP) ## the example claims in five ways and under twenty seeds: the same verdicts, and no baseline cries wolf
	$(BIN)/python benchmarks/stability.py --ways --seeds 20 --names 50
	$(BIN)/python benchmarks/baselines.py

full: lint stability ## every check at full size: about two thousand networks against the slow reference, a thousand claims, twenty seeds
	SCRUB_PROFILE=full $(MAKE) check

compat: ## HookedTransformer, and SAELens, in an environment of its own (TransformerLens 4 has none, and SAELens needs one before it); bitsandbytes in another
	test -x .venv-compat/bin/python || $(PYTHON) -m venv .venv-compat
	.venv-compat/bin/python -m pip install --quiet torch==2.13.0 transformer-lens==3.9.0 sae-lens==6.54.12 'pytest>=8.2' 'msgspec>=0.19'
	PYTHONPATH=. .venv-compat/bin/python -m pytest -c /dev/null --rootdir . --confcutdir tests/network \
		-p no:cacheprovider tests/network/compat_hooked_transformer.py tests/extras/dictionaries/compat_sae_lens.py
	test -x .venv-packed/bin/python || $(PYTHON) -m venv .venv-packed
	.venv-packed/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[transformer-lens]' bitsandbytes==0.50.2 torchao==0.18.0 accelerate
	.venv-packed/bin/python -m pytest -c /dev/null --rootdir . --confcutdir tests/network -p no:cacheprovider tests/network/compat_packed.py

clean:
	rm -rf $(VENV) .venv-compat .venv-packed .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info
