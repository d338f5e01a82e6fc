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

# Of the example claims these take longest, or say of another program what is said of one; `make demo` and `make full` check them.
BRACKETS := example_circuits/brackets/test_brackets.py
INDUCTION := example_circuits/induction/test_induction.py
SORTING := example_circuits/pitfalls/sorting/test_sorting.py
STORIES := example_circuits/stories/test_stories.py
CARRYING := example_circuits/carrying/test_carrying.py
LATENTS := example_circuits/latents/test_latents.py
DIGITS := example_circuits/carrying/test_three_digits.py
ADDITION := example_circuits/modular_addition/test_modular_addition.py
LONG_CLAIMS := $(INDUCTION)::test_refined $(INDUCTION)::test_two_heads_write_the_answer $(INDUCTION)::test_one_head_is_enough $(CARRYING)::test_carry_and_tens_make_the_hundreds $(CARRYING)::test_the_last_digit_of_the_sum_is_there_too $(INDUCTION)::test_naive $(INDUCTION)::test_the_heads_only_know_where_the_answer_is $(INDUCTION)::test_previous_token_head_moves_the_embedding $(INDUCTION)::test_refined_keeps_the_whole_distribution \
	$(INDUCTION)::test_the_other_head_moves_the_embedding $(INDUCTION)::test_previous_token_head_carries_its_position \
	$(INDUCTION)::test_no_second_occurrence_in_the_rest $(INDUCTION)::test_induction_at_all_positions $(INDUCTION)::test_induction_from_any_position $(STORIES)::test_three_heads_carry_the_gender \
	$(STORIES)::test_two_heads_carry_the_gender $(STORIES)::test_they_read_the_first_tokens_of_noun_and_name \
	$(STORIES)::test_two_other_heads_carry_the_gender $(STORIES)::test_they_carry_the_initial_of_the_name \
	$(BRACKETS)::test_one_part_counts_and_three_look_at_the_horizon \
	$(CARRYING)::test_a_boundless_alignment_holds_it $(CARRYING)::test_the_network_does_not_add_digit_by_digit $(CARRYING)::test_the_same_columns_carry_into_the_hundreds \
	$(CARRYING)::test_it_carries_from_nine_on $(CARRYING)::test_any_four_columns_hold_it $(CARRYING)::test_the_carry_is_at_the_other_last_digit \
	$(foreach claim,it_does_not_add_the_hundreds_alone one_head_holds_the_tens hundreds_and_tens_make_the_first_digit one_head_holds_the_carry,$(DIGITS)::test_$(claim)) \
	$(BRACKETS)::test_mlp_2_gets_the_count_from_layer_1_and_head_2_1 $(BRACKETS)::test_both_at_once \
	$(LATENTS)::test_latents_get_the_difference_from_latents $(ADDITION)::test_one_frequency_is_enough $(LATENTS)::test_they_get_it_from_other_latents $(LATENTS)::test_the_error_of_the_sae_is_idle \
	$(LATENTS)::test_the_difference_stands_at_every_position $(LATENTS)::test_the_bracket_stands_there_and_no_more \
	$(LATENTS)::test_latents_look_at_what_follows \
	$(LATENTS)::test_latents_look_at_what_follows_and_know_the_horizon \
	$(ADDITION)::test_each_frequency_knows_the_sum $(ADDITION)::test_each_knows_cosine_and_sine $(ADDITION)::test_each_knows_the_cosine_alone \
	$(ADDITION)::test_each_knows_the_angle_of_the_sum_to_a_sixteenth_of_a_turn \
	$(ADDITION)::test_each_knows_the_angle_of_the_difference $(ADDITION)::test_each_knows_the_angle_at_the_next_frequency \
	example_circuits/pitfalls/cancellation/test_memoriser.py::test_the_learner \
	$(foreach what,this_node_sorts this_node_computes_the_sorted_list it_merges_sorted_halves it_partitions,\
	$(foreach program,quick_sort merge_of_quick_sorts,$(SORTING)::test_$(what)[$(program)]))

# SCRUB_PROFILE is quick or full (tests/sizes.py): how many networks, claims and mutants are made up, how often a dice is thrown,
# and whether processes that tests start are copies of one that has imported torch (tests/warm_python.py).
check: $(STAMP)
	$(BIN)/python -m pytest tests example_circuits -n 2 --dist loadgroup $(if $(filter full,$(SCRUB_PROFILE)),,$(LONG_CLAIMS:%='--deselect=%'))

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
