# A reward model of 345 million parameters that reads the problem: from problems to a model in 25 minutes on two cores
# with units for bfloat16.
#
#     make setup
#     make -f benches/small.mk DATA=FOLDER           # build/nano/small/model
#     make -f benches/small.mk DATA=FOLDER scores    # what it and a log-likelihood make of all attempts, packed
#
# With COPIES=1 each attempt is there once more, rewritten in another style, and is learned once instead of twice. This
# model is not shown to be better. It was the reward of the second run of GRPO in docs/rl.md. EXIT_WEIGHT=1 trains exits
# too (docs/training.md).
#
# FOLDER is as benches/quality/reading_data.py says. A step that was killed goes on, or starts again; to make a step
# again, remove what it wrote and what was made of that.
DATA ?= data
W ?= build/nano
RESULTS ?= $(W)
COPIES ?= 0
EXIT_WEIGHT ?= 0
C := .venv/bin/codescaler
export PYTHONSAFEPATH := 1

.PHONY: small scores
.DELETE_ON_ERROR:
small: $(W)/small.trained

$(W)/qwen:
	$(C) download qwen-coder-0.5b $@
$(patsubst %,$(W)/data/%.jsonl,sampled_train mbpp_validation foreign_validation references_train taught) &:
	.venv/bin/python benches reading_data $(DATA) $(W)/data

# Programs that answer another problem, or none, beside the attempts, and for every third problem with a solution of its
# own: all that this has to teach is learned in a tenth of the steps.
STYLES := renamed commented stripped reformatted rewrapped documented hinted imported demonstrated praised
REWRITE := $(foreach name,$(STYLES),--rewrite $(name))
ATTEMPTS := $(W)/data/sampled_train.jsonl
NEGATIVES := 3
EPOCHS := 2
ifneq ($(COPIES),0)
ATTEMPTS := $(W)/small_rewritten.jsonl
NEGATIVES := 4
EPOCHS := 1
endif
$(W)/small_rewritten.jsonl: $(W)/data/sampled_train.jsonl
	$(C) data augment $< -o $@ $(REWRITE) --copies $(COPIES) --max-rewrites 2
$(W)/small_sampled.jsonl: $(ATTEMPTS)
	$(C) data negatives $< -o $@ --n $(NEGATIVES) --seed 1
$(W)/some_references.jsonl: $(W)/data/references_train.jsonl
	awk 'NR % 3 == 1' $< > $@
$(W)/small_reference.jsonl: $(W)/some_references.jsonl
	$(C) data negatives $< -o $@ --n 3 --seed 1 --kind other --kind renamed --kind near_miss
$(W)/small_groups.jsonl: $(W)/small_sampled.jsonl $(W)/small_reference.jsonl
	cat $^ > $@

# The first 14 layers of Qwen2.5-Coder-0.5B, after which a head on frozen features ranks best.
$(W)/qwen14: | $(W)/qwen
	$(C) prune $(W)/qwen -o $@ --layers 14
$(W)/qwen14_head: $(W)/data/sampled_train.jsonl | $(W)/qwen14
	$(C) fit-head $(W)/qwen14 $< -o $@
$(W)/small.trained: $(W)/small_groups.jsonl $(W)/qwen14_head
	$(C) train $(W)/qwen14_head $< -o $(basename $@) --resume --method lora --learning-rate 1e-4 --epochs $(EPOCHS) \
	  --exit-weight $(EXIT_WEIGHT) --step-tokens 3072 --micro-batch-tokens 3072 --save-every 40 --average-last 0.33 \
	  --warmup-fraction 0.05
	touch $@

$(W)/scored.jsonl: $(W)/data/sampled_train.jsonl $(W)/small.trained
	$(C) score $< --rm small=$(W)/small/model --rm likelihood=$(W)/qwen:likelihood --combine z --dtype bfloat16 -o $@
scores: $(W)/scored.jsonl
	.venv/bin/python benches teacher_scores $<
