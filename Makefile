# Calls `goodsam` (python -m pipeline) in .venv. Every target sets up .venv first, once.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
GOODSAM := $(PY) -m pipeline

# Two busy OpenMP pools on a small machine slow each other down by an order of magnitude.
export OMP_WAIT_POLICY ?= PASSIVE

# The data set and the settings of the stages, e.g. make fuse FUSION=ssa. Without MANIFEST and CONFIG: the demo world.
MANIFEST ?= $(GOODSAM_MANIFEST)
CONFIG   ?= $(GOODSAM_CONFIG)
FUSION   ?=
STUDENT  ?=
CHECKPOINT ?=
IMAGES   ?=
IMAGE    ?=
SPLIT    ?=
CACHE    ?=
SET      ?=
ARGS     ?=

DEMO := data_manifests/demo.yaml
ifeq ($(MANIFEST)$(CONFIG),)
override MANIFEST := $(DEMO)
override CONFIG := demo
endif
# The demo world is rendered before the stages read it.
WORLD = $(if $(filter $(DEMO),$(MANIFEST)),$(PY) -m demo --world-only)

# SET holds settings without spaces, one after the other; others go through ARGS="--set '...'".
SETTINGS = $(if $(CONFIG),--config '$(CONFIG)') $(foreach s,$(SET),--set '$(s)')
RUN = $(if $(MANIFEST),--manifest '$(MANIFEST)') $(SETTINGS) $(if $(CACHE),--cache '$(CACHE)') $(ARGS)
WITH_SPLIT = $(if $(SPLIT),--split '$(SPLIT)')
WITH_FUSION = $(if $(FUSION),--fusion '$(FUSION)')
WITH_CHECKPOINT = $(if $(CHECKPOINT),--student '$(CHECKPOINT)')
# $(call need,target,VARIABLE,example): stops before any work if the target is called without its variable.
need = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,$(error $(2) is missing; expected e.g. make $(1) $(2)=$(3))))
$(call need,predict,IMAGES,/data/panoramas)$(call need,predict,CHECKPOINT,student.pth)
$(call need,export,CHECKPOINT,student.pth)
$(call need,view,IMAGE,images/target-test/target-test-00000)
$(call need,paper,DENSEPASS,/data/DensePASS)$(call need,paper,SAM,sam_vit_h_4b8939.pth)$(call need,paper,TA,segformer_b5_cityscapes.pth)

.PHONY: help demo demo-models setup test test-all lint bench precompute fuse ablate paper train adapt evaluate export labels corrections predict view report inspect verify gc migrate settings doctor clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables of the stages: MANIFEST= CONFIG= CACHE= SPLIT= SET='key=value ...' ARGS='--any --option'"
	@echo "make ends with status 2 whenever a command fails; goodsam itself with 3 if single images failed, 2 if refused."

setup: $(STAMP) ## create .venv with the pinned packages (once)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(0 if v >= (3, 11) else "make setup: found Python %d.%d (%s); expected 3.11 or newer, pass one with PYTHON=" % (v[0], v[1], sys.executable))'
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
demo-models: $(STAMP) ## train the demo's TAs, its student's initial weights and its small SAM again, on a CPU   [HOURS=5 for the SAM, WEIGHTS=folder]
	@$(PY) -m demo.teachers.train --which resnet_fpn --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.teachers.train --which segformer --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.teachers.train --which goodsam_demo --out $(MODELS) --weights $(WEIGHTS) $(ARGS)
	@$(PY) -m demo.sam.train --out $(MODELS)/sam --hours $(HOURS) $(if $(wildcard $(MODELS)/sam/state.pt),--resume)
	@$(PY) -m demo.sam.export --best $(MODELS)/sam/best.pt --out $(WEIGHTS)/nano_sam.safetensors
	@$(PY) -m demo.sam.evaluate --weights $(WEIGHTS)/nano_sam.safetensors --training $(MODELS)/sam

precompute: $(STAMP) ## stage one: SAM masks, boundaries, TA logits -> Zarr   (without MANIFEST and CONFIG: the demo world)
	@$(WORLD)
	@$(GOODSAM) precompute $(WITH_SPLIT) $(RUN)

fuse: $(STAMP) ## stage two: the ensemble from the cached arrays   [FUSION=paper|best|goodsampp|boundary|ssa|sepl|sgml|ta]
	@$(GOODSAM) fuse $(WITH_FUSION) $(WITH_SPLIT) $(RUN)

train: $(STAMP) ## stage three: the student                                 [STUDENT=goodsam_m SPLIT=train]
	@$(GOODSAM) train $(if $(STUDENT),--student '$(STUDENT)') $(WITH_FUSION) $(WITH_SPLIT) $(RUN)

evaluate: $(STAMP) ## mIoU, boundaries, calibration, weights of pseudo-labels and students  [CHECKPOINT=]
	@$(GOODSAM) evaluate $(WITH_FUSION) $(WITH_CHECKPOINT) $(WITH_SPLIT) $(RUN)

predict: $(STAMP) ## label PNGs and overlays of panoramas    [IMAGES="file folder glob" CHECKPOINT=]
	@$(GOODSAM) predict $(IMAGES) $(WITH_CHECKPOINT) $(ARGS)

labels: $(STAMP) ## the pseudo-labels as Cityscapes-style PNGs, for any other framework
	@$(GOODSAM) labels $(WITH_FUSION) $(WITH_SPLIT) $(RUN)

LABELS ?=
corrections: $(STAMP) ## check corrected label maps before a training takes them    [LABELS=folder]
	@$(GOODSAM) corrections $(if $(LABELS),--labels '$(LABELS)') $(WITH_FUSION) $(WITH_SPLIT) $(RUN)

export: $(STAMP) ## a student as ONNX, checked against torch   [CHECKPOINT= ARGS="--size 400x2048"]
	@$(GOODSAM) export $(WITH_CHECKPOINT) $(ARGS)

ROUNDS ?= auto
adapt: $(STAMP) ## TA adaptation to the panoramas, its logits and the fusion again; for a large domain gap   [ROUNDS=auto]
	@$(GOODSAM) adapt --rounds $(ROUNDS) $(if $(SPLIT),--set 'train.split=$(SPLIT)') $(WITH_FUSION) $(RUN)

# Tables by name, students included; or settings and their values, of which every combination is a row.
SUITE ?=
VARY  ?= fusion.rule=ta,ssa,sepl,sgml,paper,goodsampp,best
PLAN  ?=
ablate: $(STAMP) ## tables over one cache: a suite, or a row for every combination of settings    [SUITE="fusion rounds" PLAN=1, or VARY="fusion.rule=paper,best fusion.rule.theta=0.3,0.7"]
	@$(WORLD)
	@$(GOODSAM) ablate $(if $(SUITE),$(foreach s,$(SUITE),--suite '$(s)'),$(foreach v,$(VARY),--vary '$(v)')) $(if $(PLAN),--plan) $(WITH_FUSION) $(WITH_SPLIT) $(RUN)

DENSEPASS ?=
SAM       ?=
TA        ?=
paper: $(STAMP) ## the paper's tables on DensePASS, students included    [DENSEPASS=folder SAM=sam_vit_h.pth TA=segformer_b5.pth PLAN=1]
	@$(GOODSAM) paper --densepass '$(DENSEPASS)' --sam '$(SAM)' --ta '$(TA)' $(if $(PLAN),--plan) $(ARGS)

view: $(STAMP) ## one panorama: masks, TA, ensemble, weight, student in one picture   [IMAGE=id CHECKPOINT=]
	@$(GOODSAM) view '$(IMAGE)' $(WITH_FUSION) $(WITH_CHECKPOINT) $(RUN)

RESULTS ?=
report: $(STAMP) ## one HTML page: tables, panoramas with layers, curves, settings    [RESULTS="results.json ..." IMAGES=9]
	@$(GOODSAM) report $(RESULTS) $(if $(IMAGES),--images '$(IMAGES)') $(WITH_FUSION) $(WITH_CHECKPOINT) $(WITH_SPLIT) $(if $(RESULTS),$(ARGS),$(RUN))

inspect: $(STAMP) ## the contents of the cache: artefacts, images, bytes per array
	@$(GOODSAM) inspect $(RUN)

verify: $(STAMP) ## re-hash images, read every cached array; with --repair remove what is damaged   [ARGS=--repair]
	@$(GOODSAM) verify $(WITH_SPLIT) $(RUN)

gc: $(STAMP) ## remove what killed runs left in the cache
	@$(GOODSAM) gc $(RUN)

migrate: $(STAMP) ## convert a cache of format 1 in place: one file per panorama and artefact
	@$(GOODSAM) migrate $(RUN)

settings: $(STAMP) ## every setting with its value and meaning, as YAML
	@$(GOODSAM) settings $(SETTINGS) $(ARGS)

doctor: $(STAMP) ## versions, device, disk, cache, and what is missing for which feature
	@$(GOODSAM) doctor $(RUN)

bench: $(STAMP) ## benchmarks; ends with one line of JSON; CHECK=1: fails where a figure became worse   [ONLY=rerun CHECK=1]
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(CHECK),--check) $(ARGS)

test: $(STAMP) ## the fast tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 2 $(ARGS)

test-all: $(STAMP) ## all tests, the end-to-end and fault tests included
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean: ## remove .venv and the caches of the tools (never the Zarr cache)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
