# Every command that a user types. `make` alone prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIPELINE := $(BIN)/python -m pipeline --typed

# What a user types as a variable reaches Python through the environment, letter for letter: nothing is expanded.
# pipeline/config/variables.py says what each stands for.
VARIABLES := ARGS ALIAS BUNDLE DATA FORMAT FROM HOST INIT INPUT MODEL NAME OUTPUT PORT PROMPT RESUME RUN RUNS STAGE TASKS TO
$(foreach name,$(VARIABLES),$(eval export TYPED_$(name) := $$(value $(name))))
export TYPED := $(sort $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name))))

# Whatever else is typed as key=value is for the configuration; a number stands for a key, which may have dots.
KEYS := $(filter-out $(VARIABLES),$(TYPED))
count :=
$(foreach name,$(KEYS),$(eval count += x)$(eval export TYPED_$(words $(count)) := $$(value $(name))))

# Targets that are no commands of the pipeline have no configuration.
$(foreach goal,$(filter help setup check test test-all browser weights bench bench-peers profile screenshots clean,$(or $(MAKECMDGOALS),help)),\
    $(foreach name,$(filter-out ARGS PYTHON VENV DEBUG,$(TYPED)),$(error make $(goal) takes no $(name)=...; see `make help`)))

# A file or folder of a command's name must not stand for the command.
.PHONY: FORCE

# A task that learns from labelled rows has a corpus of its own, which its yaml names.
comma := ,
listed = $(subst $() ,$(comma) ,$(strip $(sort $(patsubst configs/task/%.yaml,%,$(1)))))
LABELLED = $(shell grep -sl 'override /data:' configs/task/*.yaml)
FINETUNE_TASKS = $(call listed,$(LABELLED))
PRETRAIN_TASKS = $(call listed,$(filter-out $(LABELLED),$(wildcard configs/task/*.yaml)))

.PHONY: help
help: ## This help
	@echo "Prelude: from raw text to a trained, tracked, comparable transformer"
	@echo
	@grep -hE '^[a-zA-Z_%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/%/TASK/' | \
		awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Options    key=value  any key of the configuration: make pretrain size=small trainer.max_steps=500"
	@echo "           ARGS=\"key=value ...\"  the same in one variable"
	@echo "           DATA=corpus  INIT=bundle  BUNDLE=bundle  RESUME=1 or a run  PROMPT=\"text\""
	@echo "           RUNS=\"a b\"  MODEL=run, bundle or NAME@alias  ALIAS=champion  RUN=run"
	@echo "           TASKS=\"classify qa\"  STAGE=step of the pipeline, or what to sweep"
	@echo "           TO=folder  FORMAT=llama (what export writes)  HOST=address  PORT=number (serve, demo)"
	@echo "           FROM=folder, or a name on the hub (import)  NAME=name of the run"
	@echo "           INPUT=file  OUTPUT=file  DEBUG=1 (full traces)  PYTHON=python3.12"
	@echo "Tasks      to pretrain: $(PRETRAIN_TASKS) (default: causal_lm): make pretrain-masked_lm"
	@echo "           to fine-tune: $(FINETUNE_TASKS): make finetune-qa"
	@echo "Any text   make pretrain data=files data.train=my.txt"
	@echo "All keys   make show-config"

.PHONY: setup
setup: $(VENV)/.installed ## Create the environment .venv (the other targets do it by themselves)

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
evaluate: $(VENV)/.installed ## Measure a pretrained bundle on a corpus: loss, perplexity, bits per byte
	@$(PIPELINE) evaluate

evaluate-%: $(VENV)/.installed FORCE ## Measure a fine-tuned bundle on a corpus, by the task's own metrics
	@$(PIPELINE) evaluate 'task=$*'

.PHONY: evaluate-lm
evaluate-lm: $(VENV)/.installed ## Measure a causal bundle with the lm-evaluation-harness: TASKS="a b"
	@$(PIPELINE) evaluate-lm

predict-%: $(VENV)/.installed FORCE ## Answer a file of rows with a fine-tuned bundle: INPUT=rows.jsonl
	@$(PIPELINE) predict 'task=$*'

try-%: $(VENV)/.installed FORCE ## Ask a fine-tuned bundle at the terminal
	@$(PIPELINE) try 'task=$*'

.PHONY: generate
generate: $(VENV)/.installed ## Write text with a bundle: PROMPT="Once" BUNDLE=latest
	@$(PIPELINE) generate

.PHONY: serve
serve: $(VENV)/.installed ## Answer over HTTP: BUNDLE=run or MODEL=NAME@champion, HOST= PORT=8000
	@$(PIPELINE) serve

.PHONY: demo
demo: $(VENV)/.installed ## Try models in the browser: BUNDLE=run, or the newest of each task
	@$(PIPELINE) demo

.PHONY: explain
explain: $(VENV)/.installed ## Why a bundle answers rows so: BUNDLE=run INPUT=rows.jsonl OUTPUT=folder
	@$(PIPELINE) explain

.PHONY: estimate
estimate: $(VENV)/.installed ## What pretraining would need, and whether it fits: gpus=8xh100 size=base
	@$(PIPELINE) estimate

.PHONY: compare
compare: $(VENV)/.installed ## Compare runs: RUNS="a b", names, ids, last:3, best:classify
	@$(PIPELINE) compare

.PHONY: report
report: $(VENV)/.installed ## One page over all runs, to look at: OUTPUT=report.html
	@$(PIPELINE) report

.PHONY: lineage
lineage: $(VENV)/.installed ## Follow a model back to its files, code and seed: MODEL=run
	@$(PIPELINE) lineage

.PHONY: import
import: $(VENV)/.installed ## Make a bundle of a Hugging Face model: FROM=folder or name on the hub
	@$(PIPELINE) import

.PHONY: export
export: $(VENV)/.installed ## Write a bundle as a Hugging Face folder: BUNDLE=run TO=folder
	@$(PIPELINE) export

.PHONY: reproduce
reproduce: $(VENV)/.installed ## Run a run again and compare to the last digit: RUN=run
	@$(PIPELINE) reproduce

.PHONY: register
register: $(VENV)/.installed ## Register a bundle in MLflow: MODEL=run ALIAS=champion
	@$(PIPELINE) register

.PHONY: promote
promote: $(VENV)/.installed ## Make the challenger champion, if it is significantly better
	@$(PIPELINE) promote

.PHONY: doctor
doctor: $(VENV)/.installed ## Find what is left behind or damaged; ARGS="fix=true" cleans
	@$(PIPELINE) doctor

.PHONY: pipeline
pipeline: $(VENV)/.installed ## Raw text to registered models, what is not there yet: TASKS="classify qa"
	@$(PIPELINE) pipeline

.PHONY: why
why: $(VENV)/.installed ## Why a step of the pipeline would run again: STAGE=finetune-qa
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
sync: $(VENV)/.installed ## Send to MLflow what its server missed while it was away
	@$(PIPELINE) sync

.PHONY: ui
ui: $(VENV)/.installed ## Open MLflow on this machine: http://127.0.0.1:5000, or PORT=5001
	@$(PIPELINE) ui

.PHONY: check
check: $(VENV)/.installed-dev ## Lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: test
test: $(VENV)/.installed-dev ## The quick tests (a few minutes); all of them: make test-all
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.installed-dev ## Every test, slow ones too
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: browser
browser: $(VENV)/.installed-dev ## Have Chromium for the tests of pages: the system's, or Playwright's own
	@$(BIN)/python -m scripts.browser

.PHONY: weights
weights: $(VENV)/.installed-dev ## Download MiniLM and SmolLM2 to .cache/weights, for tests of real weights
	@$(BIN)/python -m scripts.weights

.PHONY: bench
bench: $(VENV)/.installed-dev ## Measure Prelude beside its peers on this machine: at most ten minutes
	@$(BIN)/python -m benchmarks.bench $(ARGS)

.PHONY: profile
profile: $(VENV)/.installed-dev ## Where the time of a training step goes: ARGS="size=small"
	@$(BIN)/python -m benchmarks.profile $(ARGS)

.PHONY: bench-peers
bench-peers: ## Install litgpt for `make bench`, in .venv-litgpt
	@$(PYTHON) -m venv .venv-litgpt
	@.venv-litgpt/bin/python -m pip install --quiet --requirement benchmarks/peers/litgpt.txt

.PHONY: screenshots
screenshots: $(VENV)/.installed-dev ## Take the pictures in docs/ anew
	@$(BIN)/python -m scripts.screenshots

.PHONY: clean
clean: ## Remove caches and build leftovers; runs, bundles and MLflow's store stay
	@rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
