# The reward model in the package, codescaler/nano, made again from problems to figures: 40 minutes on two cores
# with units for bfloat16, two to three hours without, and again as much for the figures.
#
#     make setup
#     make -f benches/nano.mk DATA=FOLDER           # build/nano/nano is what stands in codescaler/nano
#     make -f benches/nano.mk DATA=FOLDER figures   # those of its model card, the test split among them
#
# FOLDER holds mbpp.jsonl (MBPP), rollouts_mbpp.jsonl.gz (see benches/quality/nano_data.py), leetcode_train.jsonl.gz
# (LeetCodeDataset v0.2) and condefects_pairs.jsonl.gz. A step that was killed goes on, or starts again; to make a step
# again, remove what it wrote and what was made of that.
DATA ?= data
W ?= build/nano
RESULTS ?= $(W)
C := .venv/bin/codescaler
VALIDATION := $(W)/data/mbpp_validation.jsonl
export PYTHONSAFEPATH := 1

.PHONY: all figures
.DELETE_ON_ERROR:
all: $(W)/nano/calibration.json

# Programs with verdicts. Sampling takes a third of the time. 320 tokens cut half of the answers short, most of them in
# what is said after the program: one in fourteen holds none.
$(W)/qwen:
	$(C) download qwen-coder-0.5b $@
$(W)/smollm2:
	$(C) download smollm2-135m $@
$(W)/data/mbpp_train.jsonl:
	.venv/bin/python benches nano_data $(DATA) $(@D)
$(VALIDATION): $(W)/data/mbpp_train.jsonl ;
$(W)/leetcode.jsonl: | $(W)/qwen
	$(C) data sample $(DATA)/leetcode_train.jsonl.gz -o $@ --model $(W)/qwen --difficulty easy --limit 300 --n 4 \
	  --max-tokens 320 --batch-size 64 --seed 1
$(W)/leetcode_labelled.jsonl: $(W)/leetcode.jsonl
	$(C) data label $< $(DATA)/leetcode_train.jsonl.gz -o $@
$(W)/sampled.jsonl: $(W)/data/mbpp_train.jsonl $(W)/leetcode_labelled.jsonl
	cat $^ > $@
$(W)/groups.jsonl: $(W)/sampled.jsonl
	cat $< $(W)/data/condefects_train.jsonl > $@

# Teacher: the first 14 layers of Qwen2.5-Coder-0.5B, after which a head on frozen features ranks best, with LoRA.
$(W)/qwen14: | $(W)/qwen
	$(C) prune $(W)/qwen -o $@ --layers 14
$(W)/qwen14_head: $(W)/data/mbpp_train.jsonl | $(W)/qwen14
	$(C) fit-head $(W)/qwen14 $< -o $@
$(W)/teacher.trained: $(W)/sampled.jsonl $(W)/qwen14_head
	$(C) train $(W)/qwen14_head $< --validation $(VALIDATION) -o $(basename $@) --resume --method lora \
	  --learning-rate 1e-4 --step-tokens 2048 --micro-batch-tokens 2048 --evaluate-every 25 --save-every 10
	touch $@
$(W)/groups_scored.jsonl: $(W)/groups.jsonl $(W)/teacher.trained
	$(C) score $< --model $(W)/teacher/model -o $@

# nano: the first layers and tokens of SmolLM2-135M, all weights trained on verdicts and on the teacher's differences,
# on each program as it is and once rewritten, so that comments and praise say less.
REWRITE := $(foreach name,renamed commented stripped reformatted rewrapped praised,--rewrite $(name))
$(W)/groups_rewritten.jsonl: $(W)/groups_scored.jsonl
	$(C) data augment $< -o $@ $(REWRITE)
$(W)/smollm2_6: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers 6 --vocabulary 8192
$(W)/smollm2_6_head: $(W)/data/mbpp_train.jsonl | $(W)/smollm2_6
	$(C) fit-head $(W)/smollm2_6 $< -o $@
TRAIN_STUDENT = $(C) train $(W)/smollm2_6_head $< --validation $(VALIDATION) -o $(basename $@) --resume \
  --learning-rate 1e-4 --epochs 3 --step-tokens 8192 --micro-batch-tokens 2048 --evaluate-every 15 --save-every 15
DISTILL := --teacher-weight 2
$(W)/student.trained: $(W)/groups_rewritten.jsonl $(W)/smollm2_6_head
	$(TRAIN_STUDENT) $(DISTILL)
	touch $@
$(W)/nano/config.json: $(W)/student.trained
	$(C) quantize $(W)/student/model $(W)/nano --dtype bfloat16 --activation-bits 16
$(W)/nano/calibration.json: $(W)/nano/config.json
	$(C) eval calibration $(VALIDATION) --model $(W)/nano --name "MBPP validation" -o $@

# What the steps bought: the same but for one. Passes are the same, steps are not: fewer problems or tokens are fewer
# steps, and fewer moments to choose from.
$(W)/no_teacher.trained: $(W)/groups_rewritten.jsonl $(W)/smollm2_6_head
	$(TRAIN_STUDENT)
	touch $@
$(W)/no_rewrites.trained: $(W)/groups_scored.jsonl $(W)/smollm2_6_head
	$(TRAIN_STUDENT) $(DISTILL)
	touch $@
$(W)/mbpp_rewritten.jsonl: $(W)/groups_rewritten.jsonl
	grep '"task_id": "mbpp/' $< > $@
$(W)/mbpp_only.trained: $(W)/mbpp_rewritten.jsonl $(W)/smollm2_6_head
	$(TRAIN_STUDENT) $(DISTILL)
	touch $@
$(W)/smollm2_6_whole: | $(W)/smollm2
	$(C) prune $(W)/smollm2 -o $@ --layers 6
$(W)/smollm2_6_whole_head: $(W)/data/mbpp_train.jsonl | $(W)/smollm2_6_whole
	$(C) fit-head $(W)/smollm2_6_whole $< -o $@
STUDENTS := student no_teacher no_rewrites mbpp_only
HEADS := --rm head=$(W)/smollm2_6_head --rm whole_head=$(W)/smollm2_6_whole_head --rm teacher_head=$(W)/qwen14_head
$(RESULTS)/nano_validation.json: $(W)/nano/calibration.json $(STUDENTS:%=$(W)/%.trained) $(W)/smollm2_6_whole_head
	$(C) eval bon $(VALIDATION) --rm nano=$(W)/nano $(foreach name,$(STUDENTS),--rm $(name)=$(W)/$(name)/model) \
	  $(HEADS) --rm teacher=$(W)/teacher/model --json $@

# The test split, once, when all choices are made: programs for the first 100 problems of ids 11-510.
$(W)/test.jsonl: | $(W)/qwen
	$(C) data sample $(DATA)/mbpp.jsonl -o $@ --model $(W)/qwen --split test --limit 100 --n 10 --max-tokens 256 \
	  --batch-size 64 --seed 2
$(W)/test_labelled.jsonl: $(W)/test.jsonl
	$(C) data label $< $(DATA)/mbpp.jsonl -o $@
THREE := --rm nano=$(W)/nano --rm teacher=$(W)/teacher/model --rm head=$(W)/smollm2_6_head
$(RESULTS)/nano_test.json: $(W)/test_labelled.jsonl $(W)/nano/calibration.json
	$(C) eval bon $< $(THREE) --json $@

# Both again without the problems whose text is near one that was learned from.
$(W)/validation_far.jsonl: $(VALIDATION) $(W)/groups.jsonl
	.venv/bin/python benches far $^ $@
$(W)/test_far.jsonl: $(W)/test_labelled.jsonl $(W)/groups.jsonl
	.venv/bin/python benches far $^ $@
$(RESULTS)/nano_%_far.json: $(W)/%_far.jsonl $(W)/nano/calibration.json
	$(C) eval bon $< $(THREE) --json $@
$(RESULTS)/reading_nano.json: $(VALIDATION) $(W)/nano/calibration.json
	$(C) eval reading $(VALIDATION) --rm nano=$(W)/nano --json $@
figures: $(RESULTS)/reading_nano.json $(foreach split,validation validation_far test test_far,$(RESULTS)/nano_$(split).json)
	.venv/bin/python benches robustness $(VALIDATION) --rm nano=$(W)/nano --rm no_rewrites=$(W)/no_rewrites/model \
	  --save nano
