# The one door: every target makes the environment it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Of the tests: two more than cores, up to four, for a third of their time they wait for processes that start.
PROCESSES ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores < 3 ? cores + 2 : 4 )))
unexport PYTHONDONTWRITEBYTECODE  # set in many images of containers; bytecode saves each process a second or two

.PHONY: quickstart test test-chaos check format bench bench-decide bench-duplicates bench-gpu bench-links bench-loader bench-many bench-peer bench-scale bench-shards fuzz types clean evidence-datacomp evidence-demo evidence-filter

quickstart: $(VENV)/.installed  ## render a world, train a filter network on it, filter its noisy pool on Ray
	$(RUN) -m winnow.jobs quickstart --folder out/quickstart

test: check  ## everything that must pass before a commit
	$(RUN) -m pytest --numprocesses $(PROCESSES) --dist worksteal

test-chaos: $(VENV)/.installed  ## workers, drivers and nodes killed, storage that fails: equal bytes; 20 minutes on 2 cores
	$(RUN) -m tests.chaos --folder out/chaos

check: $(VENV)/.installed types  ## lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	cd build/types && $(CURDIR)/$(RUN) -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

bench: $(VENV)/.installed  ## embed and shard-writing rates beside their limits
	$(RUN) -m winnow.jobs.lab.bench.embedding --folder out/bench

bench-decide: $(VENV)/.installed  ## what deciding costs at 1 and 10 million samples; 12 GB of disk, 20 minutes on 2 cores
	$(RUN) -m winnow.jobs.lab.bench.decisions --folder out/bench-decide

bench-duplicates: $(VENV)/.installed  ## what semantic deduplication of a million samples costs; 8 GB of disk, 10 minutes
	$(RUN) -m winnow.jobs.lab.bench.duplicates --folder out/bench-duplicates

bench-gpu: $(VENV)/.installed  ## embedding on one GPU beside its limits, on tars of photos: POOL='/photos/*.tar'; 1 GB of disk
	$(RUN) -m winnow.jobs.lab.bench.gpu --folder out/bench-gpu --pool '$(POOL)'

bench-links: $(VENV)/.installed  ## filtering 2,000,000 links, beside polars and duckdb; 1 GB of disk, 2 minutes on 2 cores
	$(RUN) -m winnow.jobs.lab.bench.links --folder out/bench-links

bench-loader: $(VENV)/.installed  ## training in place beside exported shards and the whole pool; 2 GB of disk, 3 minutes
	$(RUN) -m winnow.jobs.lab.bench.loading --folder out/bench-loader

bench-many: $(VENV)/.installed  ## what 20,000 tiny shards cost the driver, and their resume; 1 GB of disk, 15 minutes on 2 cores
	$(RUN) -m winnow.jobs.lab.bench.many_shards --folder out/bench-many

bench-peer: $(VENV)/.installed  ## embedding beside a plain webdataset loop, and clip-retrieval where CLIP_RETRIEVAL is the python of one
	$(RUN) -m winnow.jobs.lab.bench.peer --folder out/bench-peer $(if $(CLIP_RETRIEVAL),--clip-retrieval $(CLIP_RETRIEVAL))

bench-scale: $(VENV)/.installed  ## the driver's memory and seconds at 50,000 and 200,000 shards and 50,000 clusters; 270,000 small files, 25 minutes on busy cores
	$(RUN) -m winnow.jobs.lab.bench.scale --folder out/bench-scale

bench-shards: $(VENV)/.installed  ## writing a quarter of 5 GB of tars beside its limits and two resharders; 9 GB under FOLDER (out; /dev/shm: no disk), 6 minutes
	$(RUN) -m winnow.jobs.lab.bench.writing --folder $(or $(FOLDER),out)/bench-shards --gigabytes $(or $(GIGABYTES),5)

fuzz: $(VENV)/.installed  ## mutated tars, parquet, npz and npy files for MINUTES (5): crashes, hangs, memory
	$(RUN) -m tests.fuzz --minutes $(or $(MINUTES),5)

evidence-datacomp: $(VENV)/.installed  ## pocket DataComp on labelled images under DATA (train-*.parquet, test-*.parquet, classnames.txt)
	$(RUN) -m winnow.jobs.lab.datacomp jobs/lab/datacomp/cifar10.yaml --executor local --workers 1 \
	  --set "labelled.images=$(DATA)/train-*.parquet" --set labelled.classnames=$(DATA)/classnames.txt \
	  --set "evaluation.images=$(DATA)/test-*.parquet" --set evaluation.classnames=$(DATA)/classnames.txt

evidence-demo: $(VENV)/.installed  ## the same on pictures that winnow renders itself; no data is needed
	$(RUN) -m winnow.jobs.lab.datacomp.demo --folder out/datacomp-demo
	$(RUN) -m winnow.jobs.lab.datacomp jobs/lab/datacomp/demo.yaml --executor local --workers 1

evidence-filter: $(VENV)/.installed  ## each ingredient of a filter network, and wrong captions, over 3 seeds; see jobs/lab/ablation.yaml
	$(RUN) -m winnow.jobs.lab.ablation jobs/lab/ablation.yaml --pool "$(POOL)" --truth $(TRUTH) --held-out "$(HELD_OUT)" \
	  --set "clean.shards=$(CLEAN)" --set "finetune.pairs.shards=$(CLEAN)" \
	  --set "finetune.task.images=$(TASK)" --set finetune.task.classnames=$(CLASSNAMES)

types:  ## the checkout as one package, winnow, for a type checker or an editor: add build/types to its path
	mkdir -p build/types/winnow
	ln -sfn ../../../winnow.py build/types/winnow/__init__.py
	ln -sfn ../../../py.typed build/types/winnow/py.typed
	ln -sfn ../../../pipeline ../../../stages ../../../jobs build/types/winnow/

format: $(VENV)/.installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# pip of a fresh venv is used as it is; constraints.txt pins names and versions, no source
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## what the targets made, but not the environment
	rm -rf out build *.egg-info
