# Every command that a user types. `make` alone prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIPELINE := $(BIN)/python -m pipeline --typed

# Variables of this file have names that no key of the configuration can have: upper case, or a dot at the beginning.

# Variables typed by the user are passed to Python through the environment, verbatim and without expansion.
# pipeline/config/variables.py defines their meanings.
VARIABLES := ARGS ALIAS BUNDLE DATA FORMAT FROM HOST INIT INPUT MODEL NAME OUTPUT PORT PROMPT RESUME RUN RUNS STAGE TASKS TO
$(foreach .name,$(VARIABLES),$(eval export TYPED_$(.name) := $$(value $(.name))))
export TYPED := $(sort $(foreach .name,$(.VARIABLES),$(if $(findstring command,$(origin $(.name))),$(.name))))

# Any other key=value is part of the configuration. Keys are passed by number, since they may contain dots.
KEYS := $(filter-out $(VARIABLES),$(TYPED))
.count :=
$(foreach .name,$(KEYS),$(eval .count += x)$(eval export TYPED_$(words $(.count)) := $$(value $(.name))))

# Targets that are not commands of the pipeline take no configuration.
$(foreach .goal,$(filter help setup check test test-all browser weights bench bench-gpu bench-peers bench-ten-minutes smoke-gpu profile screenshots clean,$(or $(MAKECMDGOALS),help)),\
    $(foreach .name,$(filter-out ARGS PYTHON VENV DEBUG $(if $(filter profile,$(.goal)),STAGE),$(TYPED)),$(error make $(.goal) takes no $(.name)=...; see `make help`)))

# A file or folder with the name of a command must not prevent it from running.
.PHONY: FORCE

# The yaml of a fine-tuning task names a corpus of its own.
.comma := ,
.listed = $(subst $() ,$(.comma) ,$(strip $(sort $(patsubst configs/task/%.yaml,%,$(1)))))
LABELLED = $(shell grep -sl 'override /data:' configs/task/*.yaml)
FINETUNE_TASKS = $(call .listed,$(LABELLED))
PRETRAIN_TASKS = $(call .listed,$(filter-out $(LABELLED),$(wildcard configs/task/*.yaml)))

.PHONY: help
help: ## Print this help
	@echo "Prelude: from raw text to a trained, tracked, comparable transformer"
	@echo
	@grep -hE '^[a-zA-Z_%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/%/TASK/' | \
		awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Options    key=value  any key of the configuration: make pretrain size=small trainer.max_steps=500"
	@echo "           ARGS=\"key=value ...\"  the same in one variable"
	@echo "           DATA=corpus  INIT=bundle  BUNDLE=bundle  RESUME=1 or a run  PROMPT=\"text\""
	@echo "           RUNS=\"a b\"  MODEL=run, bundle or NAME@alias  ALIAS=champion  RUN=run"
	@echo "           TASKS=\"classify qa\"  STAGE=step of the pipeline, or what to sweep or profile"
	@echo "           TO=folder  FORMAT=llama (what export writes)  HOST=address  PORT=number (serve, demo)"
	@echo "           FROM=folder, or a name on the Hub (import)  NAME=name of the run"
	@echo "           INPUT=file  OUTPUT=file  DEBUG=1 (full tracebacks)  PYTHON=python3.12"
	@echo "Tasks      to pretrain: $(PRETRAIN_TASKS) (default: causal_lm): make pretrain-masked_lm"
	@echo "           to fine-tune: $(FINETUNE_TASKS): make finetune-qa"
	@echo "Any text   make pretrain data=files data.train=my.txt"
	@echo "All keys   make show-config"

.PHONY: setup
setup: $(VENV)/.installed ## Create the environment .venv (other targets do so when needed)

$(VENV)/.installed: pyproject.toml constraints.txt
	@scripts/setup $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@scripts/setup $(PYTHON) $(VENV) dev
	@touch $@

.PHONY: tokenizer
tokenizer: $(VENV)/.installed ## Train a tokenizer on the corpus
	@$(PIPELINE) tokenizer

.PHONY: pretrain
pretrain: $(VENV)/.installed ## Pretrain a transformer (causal language model) and write its bundle
	@$(PIPELINE) pretrain

pretrain-%: $(VENV)/.installed FORCE ## Pretrain with another objective; listed below
	@$(PIPELINE) pretrain 'task=$*'

finetune-%: $(VENV)/.installed FORCE ## Fine-tune a pretrained bundle; the tasks are listed below
	@$(PIPELINE) finetune 'task=$*'

.PHONY: evaluate
evaluate: $(VENV)/.installed ## Evaluate a pretrained bundle on a corpus: loss, perplexity, bits per byte
	@$(PIPELINE) evaluate

evaluate-%: $(VENV)/.installed FORCE ## Evaluate a bundle on a corpus with the task's metrics
	@$(PIPELINE) evaluate 'task=$*'

.PHONY: evaluate-lm
evaluate-lm: $(VENV)/.installed ## Evaluate a causal bundle with the lm-evaluation-harness: TASKS="a b"
	@$(PIPELINE) evaluate-lm

predict-%: $(VENV)/.installed FORCE ## Predict the rows of a file with a bundle: INPUT=rows.jsonl
	@$(PIPELINE) predict 'task=$*'

try-%: $(VENV)/.installed FORCE ## Try a bundle in the terminal
	@$(PIPELINE) try 'task=$*'

.PHONY: generate
generate: $(VENV)/.installed ## Generate text with a bundle: PROMPT="Once" BUNDLE=latest
	@$(PIPELINE) generate

.PHONY: serve
serve: $(VENV)/.installed ## Serve over HTTP: BUNDLE=run or MODEL=NAME@champion, HOST= PORT=8000
	@$(PIPELINE) serve

.PHONY: demo
demo: $(VENV)/.installed ## Try models in the browser: BUNDLE=run, or the newest of each task
	@$(PIPELINE) demo

.PHONY: explain
explain: $(VENV)/.installed ## Explain predictions: BUNDLE=run INPUT=rows.jsonl OUTPUT=folder
	@$(PIPELINE) explain

.PHONY: estimate
estimate: $(VENV)/.installed ## Estimate memory, time and cost of pretraining: gpus=8xh100 size=base
	@$(PIPELINE) estimate

.PHONY: compare
compare: $(VENV)/.installed ## Compare runs, by name, id, last:3 or best:classify: RUNS="a b"
	@$(PIPELINE) compare

.PHONY: report
report: $(VENV)/.installed ## Write one HTML page about all runs: OUTPUT=report.html
	@$(PIPELINE) report

.PHONY: lineage
lineage: $(VENV)/.installed ## Trace a model back to its files, code and seed: MODEL=run
	@$(PIPELINE) lineage

.PHONY: import
import: $(VENV)/.installed ## Convert a Hugging Face model to a bundle: FROM=folder or name on the Hub
	@$(PIPELINE) import

.PHONY: export
export: $(VENV)/.installed ## Export a bundle as a Hugging Face folder: BUNDLE=run TO=folder
	@$(PIPELINE) export

.PHONY: reproduce
reproduce: $(VENV)/.installed ## Repeat a run and compare it to the last digit: RUN=run
	@$(PIPELINE) reproduce

.PHONY: register
register: $(VENV)/.installed ## Register a bundle in MLflow: MODEL=run ALIAS=champion
	@$(PIPELINE) register

.PHONY: promote
promote: $(VENV)/.installed ## Make the challenger the champion, if it is significantly better
	@$(PIPELINE) promote

.PHONY: doctor
doctor: $(VENV)/.installed ## Find leftovers and damage; ARGS="fix=true" cleans up
	@$(PIPELINE) doctor

.PHONY: pipeline
pipeline: $(VENV)/.installed ## Run all missing steps, from text to registered models: TASKS="classify qa"
	@$(PIPELINE) pipeline

.PHONY: why
why: $(VENV)/.installed ## Explain why a step of the pipeline would run again: STAGE=finetune-qa
	@$(PIPELINE) why

.PHONY: sweep
sweep: $(VENV)/.installed ## Try many settings: STAGE=pretrain ARGS="optimizer.lr=1e-3,4e-3"
	@$(PIPELINE) sweep

.PHONY: show-config
show-config: $(VENV)/.installed ## Print the whole configuration that pretrain would use
	@$(PIPELINE) show-config

.PHONY: show-data
show-data: $(VENV)/.installed ## Print a training row as text, ids, mask and labels
	@$(PIPELINE) show-data

.PHONY: sync
sync: $(VENV)/.installed ## Send to MLflow what was recorded while its server was unreachable
	@$(PIPELINE) sync

.PHONY: ui
ui: $(VENV)/.installed ## Open MLflow on this machine: http://127.0.0.1:5000, or PORT=5001
	@$(PIPELINE) ui

.PHONY: check
check: $(VENV)/.installed-dev ## Run the linter and the type checker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: test
test: $(VENV)/.installed-dev ## Run the quick tests (a few minutes); all of them: make test-all
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.installed-dev ## Run all tests, including slow ones
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: browser
browser: $(VENV)/.installed-dev ## Find or download Chromium for the tests of HTML pages
	@$(BIN)/python -m scripts.browser

.PHONY: weights
weights: $(VENV)/.installed-dev ## Download MiniLM and SmolLM2 to .cache/weights, for tests with real weights
	@$(BIN)/python -m scripts.weights

.PHONY: bench
bench: $(VENV)/.installed-dev ## Measure Prelude next to its peers on this machine: 10 to 15 minutes
	@$(BIN)/python -m benchmarks.bench $(ARGS)

.PHONY: bench-ten-minutes
bench-ten-minutes: $(VENV)/.installed-dev ## Train Prelude and its peers for ten minutes each, and compare them
	@$(BIN)/python -m benchmarks.ten_minutes $(ARGS)

.PHONY: profile
profile: $(VENV)/.installed-dev ## Say where the time of a training step goes: STAGE=finetune-qa
	@$(BIN)/python -m benchmarks.profile $(if $(filter STAGE,$(TYPED)),--stage "$(STAGE)") $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(VENV)/.installed-dev ## Compare estimates with measurements on a GPU: six minutes
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

.PHONY: smoke-gpu
smoke-gpu: $(VENV)/.installed ## Report what works on the GPUs here; without GPUs: ARGS=--cpu
	@$(BIN)/python -m scripts.smoke_gpu $(ARGS)

.PHONY: bench-peers
bench-peers: ## Install litgpt for `make bench`, in .venv-litgpt
	@$(PYTHON) -m venv .venv-litgpt
	@.venv-litgpt/bin/python -m pip install --quiet --requirement benchmarks/peers/litgpt.txt

.PHONY: screenshots
screenshots: $(VENV)/.installed-dev ## Take the screenshots in docs/ again
	@$(BIN)/python -m scripts.screenshots

.PHONY: clean
clean: ## Remove caches and build files, but no runs, bundles or MLflow data
	@rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
