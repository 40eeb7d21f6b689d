# Every command that a user types. `make` alone prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIPELINE := $(BIN)/python -m pipeline

# quote: one word for the shell, whatever is in it; text: one string for Hydra, whatever is in it.
quote = '$(subst ','\'',$(1))'
text = '$(subst $${,\$${,$(subst ',\',$(1)))'

# list: words as a list for Hydra, whatever is in them.
empty :=
comma := ,
space := $(empty) $(empty)
list = [$(subst $(space),$(comma),$(strip $(foreach word,$(1),$(call text,$(word)))))]

# option: KEY=VARIABLE as one override, where the variable is set.
key = $(firstword $(subst =, ,$(1)))
variable = $(value $(lastword $(subst =, ,$(1))))
option = $(if $(call variable,$(1)),$(call quote,$(call key,$(1))=$(call text,$(call variable,$(1)))))

# ranges: ARGS whose parentheses the shell leaves alone, as in lr=interval(1,2); what has quotes stays as it is.
open := (
close := )
ranges = $(if $(findstring ',$(ARGS))$(findstring ",$(ARGS)),$(ARGS),$(subst \
         $(open),\$(open),$(subst $(close),\$(close),$(ARGS))))

# tasks: TASKS as one override, where it is set.
tasks = $(if $(value TASKS),$(call quote,tasks=$(call list,$(value TASKS))))

# Variables that stand for one override each, so that `make pretrain RESUME=1` reads well.
OPTIONS := $(if $(DATA),data=$(DATA)) \
           $(foreach name,init_from=INIT bundle=BUNDLE bundle=MODEL input=INPUT output=OUTPUT run=RUN \
           alias=ALIAS,$(call option,$(name))) \
           $(if $(RESUME),resume=$(if $(filter 1,$(RESUME)),true,$(RESUME)))

.PHONY: help
help: ## This help
	@echo "Prelude: from raw text to a trained, tracked, comparable transformer"
	@echo
	@grep -hE '^[a-zA-Z_%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/%/TASK/' | \
		awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Options    ARGS=\"key=value ...\"  any key, e.g. ARGS=\"size=small trainer.max_steps=500\""
	@echo "           DATA=corpus  INIT=bundle  BUNDLE=bundle  RESUME=1 or a run  PROMPT=\"text\""
	@echo "           RUNS=\"a b\"  MODEL=run, bundle or NAME@alias  ALIAS=champion  RUN=run"
	@echo "           TASKS=\"classify qa\"  STAGE=step of the pipeline, or what to sweep"
	@echo "           INPUT=file  OUTPUT=file  DEBUG=1 (full traces)  PYTHON=python3.12"
	@echo "Tasks      to pretrain: causal_lm (default), masked_lm, denoise: make pretrain-masked_lm"
	@echo "           to fine-tune: classify, qa, translate, summarize, chat: make finetune-qa"
	@echo "Any text   make pretrain ARGS=\"data=files data.train=my.txt\""
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
	@$(PIPELINE) tokenizer $(OPTIONS) $(ARGS)

.PHONY: pretrain
pretrain: $(VENV)/.installed ## Pretrain a transformer (causal language model) and write its bundle
	@$(PIPELINE) pretrain $(OPTIONS) $(ARGS)

pretrain-%: $(VENV)/.installed ## Pretrain with another objective: masked_lm, denoise
	@$(PIPELINE) pretrain task=$* $(OPTIONS) $(ARGS)

finetune-%: $(VENV)/.installed ## Fine-tune a pretrained bundle: classify, qa, translate, summarize, chat
	@$(PIPELINE) finetune task=$* $(OPTIONS) $(ARGS)

.PHONY: evaluate
evaluate: $(VENV)/.installed ## Measure a pretrained bundle on a corpus: loss, perplexity, bits per byte
	@$(PIPELINE) evaluate $(OPTIONS) $(ARGS)

evaluate-%: $(VENV)/.installed ## Measure a fine-tuned bundle on a corpus, by the task's own metrics
	@$(PIPELINE) evaluate task=$* $(OPTIONS) $(ARGS)

predict-%: $(VENV)/.installed ## Answer a file of rows with a fine-tuned bundle: INPUT=rows.jsonl
	@$(PIPELINE) predict task=$* $(OPTIONS) $(ARGS)

try-%: $(VENV)/.installed ## Ask a fine-tuned bundle at the terminal
	@$(PIPELINE) try task=$* $(OPTIONS) $(ARGS)

.PHONY: generate
generate: $(VENV)/.installed ## Write text with a bundle: PROMPT="Once" BUNDLE=latest
	@$(PIPELINE) generate $(OPTIONS) $(if $(value PROMPT),$(call quote,prompts=[$(call text,$(value PROMPT))])) $(ARGS)

.PHONY: compare
compare: $(VENV)/.installed ## Compare runs: RUNS="a b", names, ids, last:3, best:classify
	@$(PIPELINE) compare $(if $(value RUNS),$(call quote,runs=$(call list,$(value RUNS)))) $(OPTIONS) $(ARGS)

.PHONY: lineage
lineage: $(VENV)/.installed ## Follow a model back to its files, code and seed: MODEL=run
	@$(PIPELINE) lineage $(OPTIONS) $(ARGS)

.PHONY: reproduce
reproduce: $(VENV)/.installed ## Run a run again and compare to the last digit: RUN=run
	@$(PIPELINE) reproduce $(OPTIONS) $(ARGS)

.PHONY: register
register: $(VENV)/.installed ## Register a bundle in MLflow: MODEL=run ALIAS=champion
	@$(PIPELINE) register $(OPTIONS) $(ARGS)

.PHONY: promote
promote: $(VENV)/.installed ## Make the challenger champion, if it is better beyond its interval
	@$(PIPELINE) promote $(OPTIONS) $(ARGS)

.PHONY: doctor
doctor: $(VENV)/.installed ## Find what is left behind or damaged; ARGS="fix=true" cleans
	@$(PIPELINE) doctor $(ARGS)

.PHONY: pipeline
pipeline: $(VENV)/.installed ## Raw text to registered models, what is not there yet: TASKS="classify qa"
	@$(PIPELINE) pipeline $(tasks) $(OPTIONS) $(ARGS)

.PHONY: why
why: $(VENV)/.installed ## Why a step of the pipeline would run again: STAGE=finetune-qa
	@$(PIPELINE) why $(call option,step=STAGE) $(tasks) $(OPTIONS) $(ARGS)

.PHONY: sweep
sweep: $(VENV)/.installed ## Try many settings: STAGE=pretrain ARGS="optimizer.lr=1e-3,4e-3"
	@$(PIPELINE) sweep $(call option,sweep.stage=STAGE) $(OPTIONS) $(ranges)

.PHONY: show-config
show-config: $(VENV)/.installed ## Print the whole configuration that pretrain would use
	@$(PIPELINE) show-config $(OPTIONS) $(ARGS)

.PHONY: show-data
show-data: $(VENV)/.installed ## Print a training row as text, ids, mask and labels
	@$(PIPELINE) show-data $(OPTIONS) $(ARGS)

.PHONY: sync
sync: $(VENV)/.installed ## Send to MLflow what its server missed while it was away
	@$(PIPELINE) sync $(ARGS)

.PHONY: ui
ui: $(VENV)/.installed ## Open MLflow on this machine: http://127.0.0.1:5000, or PORT=5001
	@$(PIPELINE) ui $(if $(PORT),$(call quote,port=$(PORT))) $(ARGS)

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

.PHONY: screenshots
screenshots: $(VENV)/.installed-dev ## Take the pictures in docs/ anew
	@$(BIN)/python -m scripts.screenshots

.PHONY: clean
clean: ## Remove caches and build leftovers; runs, bundles and MLflow's store stay
	@rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
