# A student that reads the problem: from problems to figures in half an hour on two cores with units for bfloat16.
# docs/training.md says what it showed.
#
#     make setup
#     make -f benches/reading.mk DATA=FOLDER           # build/reading/student/model
#     make -f benches/reading.mk DATA=FOLDER figures   # beside its teacher, which benches/small.mk makes
.PHONY: student
student:
include $(dir $(lastword $(MAKEFILE_LIST)))small.mk
student: $(W)/student.trained

# What is learned from the teacher: for attempts at a problem, its score and the log-likelihood of the language model
# that wrote them, standardised and added; benches/quality/data has these scores. Verdicts alone teach the programs of
# other problems and those that do not answer. Each attempt is there once more, rewritten, so that comments and praise
# say less.
REWRITE := $(foreach name,renamed commented stripped reformatted rewrapped praised,--rewrite $(name))
$(W)/rewritten.jsonl: $(W)/data/taught.jsonl
	$(C) data augment $< -o $@ $(REWRITE)
$(W)/student_sampled.jsonl: $(W)/rewritten.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/student_reference.jsonl: $(W)/data/references_train.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1 --kind other --kind renamed --kind near_miss
$(W)/student_groups.jsonl: $(W)/student_sampled.jsonl $(W)/student_reference.jsonl
	cat $^ > $@

# The first layers and tokens of SmolLM2-135M, all weights trained: on verdicts alone until it reads, then on the teacher
# too. With the teacher from the first step it did not read after 170 steps. No step is chosen by validation.
$(W)/smollm2:
	$(C) download smollm2-135m $@
$(W)/smollm2_pruned: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers 10 --vocabulary 8192
$(W)/smollm2_head: $(W)/data/sampled_train.jsonl | $(W)/smollm2_pruned
	$(C) fit-head $(W)/smollm2_pruned $< -o $@
TRAIN := --resume --micro-batch-tokens 3072 --save-every 50 --warmup-fraction 0.05
$(W)/first_groups.jsonl: $(W)/small_sampled.jsonl $(W)/student_reference.jsonl
	cat $^ > $@
$(W)/first.trained: $(W)/first_groups.jsonl $(W)/smollm2_head
	$(C) train $(W)/smollm2_head $< -o $(basename $@) $(TRAIN) --learning-rate 3e-4 --step-tokens 4096 \
	  --final-fraction 0.5
	touch $@
$(W)/student.trained: $(W)/student_groups.jsonl $(W)/first.trained
	$(C) train $(W)/first/model $< -o $(basename $@) $(TRAIN) --learning-rate 2e-4 --epochs 1.2 --step-tokens 6144 \
	  --average-last 0.33 --teacher-weight 0.5
	touch $@

ALL := --rm student=$(W)/student/model --rm first=$(W)/first/model --rm teacher=$(W)/small/model --rm nano=nano
$(W)/data/pooled_validation.jsonl: $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl
	cat $^ > $@
$(RESULTS)/reading_student.json: $(W)/data/pooled_validation.jsonl $(W)/student.trained $(W)/small.trained
	$(C) eval reading $< $(ALL) --json $@
$(RESULTS)/student_%.json: $(W)/data/%_validation.jsonl $(W)/student.trained $(W)/small.trained
	$(C) eval bon $< $(ALL) --rm smollm2=$(W)/smollm2:likelihood --rm qwen=$(W)/qwen:likelihood --json $@
figures: $(RESULTS)/reading_student.json $(RESULTS)/student_mbpp.json $(RESULTS)/student_foreign.json
