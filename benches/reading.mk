# A reward model that reads the problem: from problems to figures. docs/training.md says what it showed.
#
#     make setup
#     make -f benches/reading.mk DATA=FOLDER           # build/reading/student/model
#     make -f benches/reading.mk DATA=FOLDER figures
#
# FOLDER is as benches/quality/reading_data.py says. A step that was killed goes on, or starts again. Training takes 45
# minutes on two cores with units for bfloat16.
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

# The teacher is nano, which ranks attempts at one problem and does not read it. So it scores the sampled programs, and
# not the programs of other problems and those that do not answer: verdicts alone teach these. Each sampled program is
# there once more, rewritten, so that comments and praise say less. The second pass has other negatives, and for problems
# with their own solution alone the three kinds that must be read for.
REWRITE := $(foreach name,renamed commented stripped reformatted rewrapped praised,--rewrite $(name))
$(W)/taught_%.jsonl: $(W)/data/%_train.jsonl
	$(C) score $< --model nano -o $@
$(W)/rewritten.jsonl: $(W)/taught_mbpp.jsonl
	$(C) data augment $< -o $@ $(REWRITE)
$(W)/sampled_1.jsonl: $(W)/rewritten.jsonl
	$(C) data negatives $< -o $@ --n 3 --seed 1
$(W)/sampled_2.jsonl: $(W)/rewritten.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 2
$(W)/reference_1.jsonl: $(W)/taught_references.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/reference_2.jsonl: $(W)/taught_references.jsonl
	$(C) data negatives $< -o $@ --n 5 --seed 2 --kind other --kind renamed --kind near_miss
$(W)/groups_%.jsonl: $(W)/sampled_%.jsonl $(W)/reference_%.jsonl
	cat $^ > $@

# No step is chosen by validation pairs: a model that does not read is ahead there.
$(W)/smollm2_pruned: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers $(LAYERS) --vocabulary 8192
$(W)/smollm2_head: $(W)/data/mbpp_train.jsonl | $(W)/smollm2_pruned
	$(C) fit-head $(W)/smollm2_pruned $< -o $@
TRAIN := --resume --learning-rate 3e-4 --epochs 2 --step-tokens 4096 --micro-batch-tokens 2048 --save-every 20 \
  --average-last 0.33 --warmup-fraction 0.05
$(W)/first.trained: $(W)/groups_1.jsonl $(W)/smollm2_head
	$(C) train $(W)/smollm2_head $< -o $(basename $@) $(TRAIN) --teacher-weight 2
	touch $@
$(W)/student.trained: $(W)/groups_2.jsonl $(W)/first.trained
	$(C) train $(W)/first/model $< -o $(basename $@) $(TRAIN) --teacher-weight 1 --max-steps 230
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
