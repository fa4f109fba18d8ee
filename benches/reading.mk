# A reward model that reads the problem: from problems to figures. docs/training.md says what it showed.
#
#     make setup
#     make -f benches/reading.mk DATA=FOLDER           # build/reading/student/model
#     make -f benches/reading.mk DATA=FOLDER figures
#
# FOLDER is as benches/quality/reading_data.py says. The figures are of one run, whose first pass had other problems of
# LeetCode. A step that was killed goes on, or starts again.
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
# problem with its own solution alone. The second pass has more problems, and three kinds for these.
$(W)/sampled_%.jsonl: $(W)/data/mbpp_train.jsonl
	$(C) data negatives $< -o $@ --n 3 --seed $*
$(W)/reference_1.jsonl: $(W)/data/references_train.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/reference_2.jsonl: $(W)/data/references_train.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 2 --kind other --kind renamed --kind near_miss
$(W)/groups_1.jsonl: $(W)/sampled_1.jsonl $(W)/reference_1.jsonl
	cat $< > $@
	grep '"task_id": "mbpp/' $(W)/reference_1.jsonl >> $@
	grep '"task_id": "leetcode/' $(W)/reference_1.jsonl | head -n 120 >> $@
$(W)/groups_2.jsonl: $(W)/sampled_2.jsonl $(W)/reference_2.jsonl
	cat $^ > $@

# No model is chosen: on validation pairs the head on frozen features is ahead, and does not read.
$(W)/smollm2_pruned: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers $(LAYERS) --vocabulary 8192
$(W)/smollm2_head: $(W)/data/mbpp_train.jsonl | $(W)/smollm2_pruned
	$(C) fit-head $(W)/smollm2_pruned $< -o $@
$(W)/first.trained: $(W)/groups_1.jsonl $(W)/smollm2_head
	$(C) train $(W)/smollm2_head $< -o $(basename $@) --resume --learning-rate 1.5e-4 --step-tokens 6144 \
	  --micro-batch-tokens 3072 --save-every 10 --average-last 0.33
	touch $@
$(W)/student.trained: $(W)/groups_2.jsonl $(W)/first.trained
	$(C) train $(W)/first/model $< -o $(basename $@) --resume --learning-rate 3e-4 --step-tokens 4096 \
	  --micro-batch-tokens 2048 --save-every 10 --average-last 0.33 --warmup-fraction 0.05
	touch $@

$(W)/pooled_validation.jsonl: $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl
	cat $^ > $@
$(RESULTS)/reading_student.json: $(W)/pooled_validation.jsonl $(W)/student.trained
	$(C) eval reading $< --rm student=$(W)/student/model --rm nano=nano --json $@
$(RESULTS)/student_validation.json: $(W)/data/mbpp_validation.jsonl $(W)/student.trained
	$(C) eval bon $< --rm student=$(W)/student/model --rm nano=nano --json $@
$(RESULTS)/student_foreign.json: $(W)/data/foreign_validation.jsonl $(W)/student.trained
	$(C) eval bon $< --rm student=$(W)/student/model --rm nano=nano --json $@
figures: $(RESULTS)/reading_student.json $(RESULTS)/student_validation.json $(RESULTS)/student_foreign.json
