# The thin face of `python -m pipeline`. Every target sets up .venv first, once.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

# Two busy OpenMP pools on a small machine slow each other down by an order of magnitude.
export OMP_WAIT_POLICY ?= PASSIVE

# What the stages read. Each may be given on the command line: make fuse FUSION=ssa
MANIFEST ?=
CONFIG   ?=
FUSION   ?=
STUDENT  ?=
CHECKPOINT ?=
IMAGES   ?=
IMAGE    ?=
SPLIT    ?=
CACHE    ?=
SET      ?=
ARGS     ?=
# SET holds settings without spaces, one after the other; others go through ARGS="--set '...'".
RUN = $(if $(MANIFEST),--manifest '$(MANIFEST)') $(if $(CONFIG),--config '$(CONFIG)') $(if $(CACHE),--cache '$(CACHE)') \
      $(foreach s,$(SET),--set '$(s)') $(ARGS)
OPTIONS = $(RUN) $(if $(SPLIT),--split '$(SPLIT)')
WITH_FUSION  = $(if $(FUSION),--fusion $(FUSION))
WITH_STUDENT = $(if $(STUDENT),--student '$(STUDENT)') $(if $(SPLIT),--set 'train.split=$(SPLIT)')
WITH_CHECKPOINT = $(if $(CHECKPOINT),--student $(CHECKPOINT))

# The demo world is rendered where it is what the stages read.
DEMO_MANIFEST := data_manifests/demo.yaml
WORLD = $(if $(filter $(DEMO_MANIFEST),$(or $(MANIFEST),$(if $(CONFIG),,$(DEMO_MANIFEST)))),$(PY) -m demo --world-only)

.PHONY: help demo demo-models setup test test-all lint bench precompute fuse ablate train adapt evaluate export labels predict view inspect verify gc migrate clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with the pinned packages (once)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(0 if v >= (3, 11) else "make setup: Python 3.11 or newer is needed, %s is %d.%d; pass another with PYTHON=" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# The OpenMMLab packages ask for opencv-python, which needs libGL; the headless build has the same module without it.
	$(PY) -m pip uninstall --quiet --yes opencv-python
	$(PY) -m pip install --quiet --constraint constraints.txt --force-reinstall --no-deps opencv-python-headless
	@touch $@

demo: $(STAMP) ## the whole chain on the embedded demo world, with pictures: minutes on a CPU
	@$(PY) -m demo $(ARGS)

HOURS   ?= 5
WEIGHTS ?= demo/weights
MODELS  := work_dirs/demo_models
demo-models: $(STAMP) ## train the demo's TAs, its student's start and its small SAM again, from nothing, on a CPU   [HOURS=5 for the SAM, WEIGHTS=folder]
	@$(PY) -m demo.teachers.train --which resnet_fpn --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.teachers.train --which segformer --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.teachers.train --which goodsam_demo --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.sam.train --out $(MODELS)/sam --hours $(HOURS) $(if $(wildcard $(MODELS)/sam/state.pt),--resume)
	@$(PY) -m demo.sam.export --best $(MODELS)/sam/best.pt --out $(WEIGHTS)/nano_sam.safetensors
	@$(PY) -m demo.sam.evaluate --weights $(WEIGHTS)/nano_sam.safetensors --training $(MODELS)/sam

precompute: $(STAMP) ## stage one: SAM masks, boundaries, TA logits -> Zarr   (without MANIFEST and CONFIG: the demo world)
	@$(WORLD)
	@$(PY) -m pipeline precompute $(OPTIONS)

fuse: $(STAMP) ## stage two: DAR over the cached arrays -> ensemble labels   [FUSION=paper|best|goodsampp|boundary|ssa|sepl|sgml|ta]
	@$(PY) -m pipeline fuse $(WITH_FUSION) $(OPTIONS)

# Settings and their values; every combination is a row.
VARY ?= fusion.rule=ta,ssa,sepl,sgml,paper,goodsampp,best
ablate: $(STAMP) ## a table over one cache, a row for every combination of settings    [VARY="fusion.rule=paper,best fusion.rule.theta=0.3,0.7"]
	@$(WORLD)
	@$(PY) -m pipeline ablate $(foreach v,$(VARY),--vary '$(v)') $(WITH_FUSION) $(OPTIONS)

train: $(STAMP) ## stage three: the student                                 [STUDENT=goodsam_m]
	@$(PY) -m pipeline train $(WITH_STUDENT) $(WITH_FUSION) $(RUN)

ROUNDS ?= 1
adapt: $(STAMP) ## TA adaptation: fine-tune the TA on the ensemble, its logits and the fusion again   [ROUNDS=1]
	@$(PY) -m pipeline adapt --rounds $(ROUNDS) $(if $(SPLIT),--set 'train.split=$(SPLIT)') $(WITH_FUSION) $(RUN)

evaluate: $(STAMP) ## mIoU, boundaries, calibration, weights of pseudo-labels and students  [CHECKPOINT=]
	@$(PY) -m pipeline evaluate $(WITH_FUSION) $(WITH_CHECKPOINT) $(OPTIONS)

export: $(STAMP) ## a student as ONNX, checked against torch   [CHECKPOINT= ARGS="--size 400x2048"]
	@$(PY) -m pipeline export $(WITH_CHECKPOINT) $(ARGS)

labels: $(STAMP) ## the pseudo-labels as Cityscapes-style PNGs, for any other framework
	@$(PY) -m pipeline labels $(WITH_FUSION) $(OPTIONS)

predict: $(STAMP) ## label PNGs and overlays of panoramas    [IMAGES="file folder glob" CHECKPOINT=]
	@$(PY) -m pipeline predict $(IMAGES) $(WITH_CHECKPOINT) $(ARGS)

view: $(STAMP) ## one panorama: masks, TA, ensemble, weight, student in one picture   [IMAGE=id CHECKPOINT=]
	@$(PY) -m pipeline view $(if $(IMAGE),'$(IMAGE)') $(WITH_FUSION) $(WITH_CHECKPOINT) $(RUN)

inspect: $(STAMP) ## what the cache holds: artefacts, images, bytes per array
	@$(PY) -m pipeline inspect $(RUN)

verify: $(STAMP) ## re-hash images, read every cached array; with --repair forget what is damaged   [ARGS=--repair]
	@$(PY) -m pipeline verify $(OPTIONS)

migrate: $(STAMP) ## convert a cache of format 1 in place: one file a panorama and artefact
	@$(PY) -m pipeline migrate $(RUN)

gc: $(STAMP) ## sweep what killed runs left in the cache
	@$(PY) -m pipeline gc $(RUN)

bench: $(STAMP) ## benchmarks; ends with one line of JSON; CHECK=1: fails where one became worse   [ONLY=rerun CHECK=1]
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(CHECK),--check) $(ARGS)

test: $(STAMP) ## the fast tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 2 $(ARGS)

test-all: $(STAMP) ## all tests, the end-to-end and fault tests included
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean: ## remove .venv and the caches of the tools (never the Zarr cache)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
