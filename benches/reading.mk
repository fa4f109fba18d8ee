# A reward model that reads the problem: from problems to figures.
#
#     make setup
#     make -f benches/reading.mk DATA=FOLDER           # build/reading/student/model
#     make -f benches/reading.mk DATA=FOLDER figures
#
# FOLDER is as benches/quality/reading_data.py says. A step that was killed goes on, or starts again.
DATA ?= data
W ?= build/reading
RESULTS ?= $(W)
LAYERS ?= 6
C := .venv/bin/codescaler
export PYTHONSAFEPATH := 1

.PHONY: all figures
.DELETE_ON_ERROR:
all: $(W)/student.trained

$(W)/smollm2:
	$(C) download smollm2-135m $@
$(W)/data/mbpp_train.jsonl:
	.venv/bin/python benches reading_data $(DATA) $(@D)
$(W)/data/references_train.jsonl $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl: \
  $(W)/data/mbpp_train.jsonl ;

# Programs of other problems, and those that do not answer: three for each problem with sampled programs, four for each
# problem with its own solution alone.
$(W)/sampled_negatives.jsonl: $(W)/data/mbpp_train.jsonl
	$(C) data negatives $< -o $@ --n 3 --seed 1
$(W)/reference_negatives.jsonl: $(W)/data/references_train.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/groups.jsonl: $(W)/sampled_negatives.jsonl $(W)/reference_negatives.jsonl
	cat $(W)/sampled_negatives.jsonl > $@
	grep '"task_id": "mbpp/' $(W)/reference_negatives.jsonl >> $@
	grep '"task_id": "leetcode/' $(W)/reference_negatives.jsonl | head -n 120 >> $@

# Chosen by programs of the sampler and of other samplers.
$(W)/validation.jsonl: $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl
	cat $^ > $@
$(W)/smollm2_pruned: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers $(LAYERS) --vocabulary 8192
$(W)/smollm2_head: $(W)/data/mbpp_train.jsonl | $(W)/smollm2_pruned
	$(C) fit-head $(W)/smollm2_pruned $< -o $@
$(W)/student.trained: $(W)/groups.jsonl $(W)/smollm2_head $(W)/validation.jsonl
	$(C) train $(W)/smollm2_head $< --validation $(W)/validation.jsonl -o $(W)/student --resume \
	  --learning-rate 1.5e-4 --epochs 1 --step-tokens 6144 --micro-batch-tokens 3072 --evaluate-every 25 --save-every 10 \
	  --average-last 0.33
	touch $@

$(RESULTS)/reading_student.json: $(W)/validation.jsonl $(W)/student.trained
	$(C) eval reading $< --rm student=$(W)/student/model --rm nano=nano --json $@
$(RESULTS)/bon_student_%.json: $(W)/data/%_validation.jsonl $(W)/student.trained
	$(C) eval bon $< --rm student=$(W)/student/model --rm nano=nano --json $@
figures: $(RESULTS)/reading_student.json $(RESULTS)/bon_student_mbpp.json $(RESULTS)/bon_student_foreign.json
