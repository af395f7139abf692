# Needs python3, make and a package registry; everything else lands in .venv.
PYTHON ?= python3
BIN    := .venv/bin

.PHONY: demo test test-exhaustive test-oldest check docs gpu venv clean
.DELETE_ON_ERROR:
# Without compiled files each start of Python would compile PyTorch anew, for many seconds.
unexport PYTHONDONTWRITEBYTECODE

demo: venv  ## Train a small SG-Former on embedded images (about four minutes on two cores) and draw what it sees.
	$(BIN)/sgformer demo

test: venv  ## Run the tests, a process and a thread for each core.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

test-exhaustive: venv  ## The same with every case of what is slow: half an hour on two cores.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal -m ""

OLDEST := .venv-oldest/bin
test-oldest:  ## With the oldest versions that pyproject.toml allows: ops, backbone, a short run of each task, an export.
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet --no-compile --constraint constraints-oldest.txt \
		--editable '.[detection,segmentation,export,demo]' 'pytest>=8.3'
	OMP_NUM_THREADS=1 $(OLDEST)/pytest tests/ops tests/backbone -k "not compil"  # torch.compile: constraints.txt
	OMP_NUM_THREADS=1 $(OLDEST)/pytest tests/test_oldest.py -m ""

check: venv  ## Lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: venv  ## Build the documentation into site/; a warning is an error.
	$(BIN)/mkdocs build --strict

gpu: venv  ## On a machine with a GPU: the tests of its kernels, then speed beside Swin-T and plain PyTorch.
	$(BIN)/pytest tests/ops tests/backbone/test_gpu.py --numprocesses 4
	$(BIN)/python benchmarks/gpu_ops.py
	$(BIN)/python benchmarks/speed.py run gpu224 gpu1024

venv: .venv/installed

# pip runs again only when what it would install has changed.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[all,heads,docs,dev]'
	touch $@

clean:  ## Remove the environment and everything that was built.
	rm -rf .venv .venv-oldest build dist site .pytest_cache .ruff_cache
