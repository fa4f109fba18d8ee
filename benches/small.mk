# A reward model of 345 million parameters that reads the problem: from problems to a model in 25 minutes on two cores
# with units for bfloat16.
#
#     make setup
#     make -f benches/small.mk DATA=FOLDER           # build/nano/small/model
#     make -f benches/small.mk DATA=FOLDER scores    # what it and a log-likelihood make of all attempts, packed
#
# FOLDER is as benches/quality/reading_data.py says. A step that was killed goes on, or starts again; to make a step
# again, remove what it wrote and what was made of that.
DATA ?= data
W ?= build/nano
RESULTS ?= $(W)
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
$(W)/small_sampled.jsonl: $(W)/data/sampled_train.jsonl
	$(C) data negatives $< -o $@ --n 3 --seed 1
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
	$(C) train $(W)/qwen14_head $< -o $(basename $@) --resume --method lora --learning-rate 1e-4 --epochs 2 \
	  --step-tokens 3072 --micro-batch-tokens 3072 --save-every 40 --average-last 0.33 --warmup-fraction 0.05
	touch $@

$(W)/scored.jsonl: $(W)/data/sampled_train.jsonl $(W)/small.trained
	$(C) score $< --rm small=$(W)/small/model --rm likelihood=$(W)/qwen:likelihood --combine z --dtype bfloat16 -o $@
scores: $(W)/scored.jsonl
	.venv/bin/python benches teacher_scores $<
