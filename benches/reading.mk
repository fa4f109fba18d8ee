# A student of 47 MB that reads the problem: the model of benches/small.mk, narrower, and in 4 bits. From that model to
# figures in an hour on two cores with units for bfloat16. docs/training.md says what it showed.
#
#     make setup
#     make -f benches/reading.mk DATA=FOLDER           # build/reading/student
#     make -f benches/reading.mk DATA=FOLDER figures   # beside its teacher, which benches/small.mk makes
#     make -f benches/reading.mk DATA=FOLDER copies    # what each step on the way to it kept
.PHONY: student copies
student:
include $(dir $(lastword $(MAKEFILE_LIST)))small.mk
student: $(W)/student/config.json

# What is learned from the teacher: for attempts at a problem, its score and the log-likelihood of the language model
# that wrote them, standardised and added; benches/quality/data has these scores. Verdicts alone teach the programs of
# other problems and those that do not answer. Each attempt is there once more, rewritten, so that comments and praise
# say less.
REWRITE := $(foreach name,renamed commented stripped reformatted rewrapped praised,--rewrite $(name))
$(W)/rewritten.jsonl: $(W)/data/taught.jsonl
	$(C) data augment $< -o $@ $(REWRITE)
$(W)/student_sampled.jsonl: $(W)/rewritten.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/student_reference.jsonl: $(W)/some_references.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1 --kind other --kind renamed --kind near_miss
$(W)/student_groups.jsonl: $(W)/student_sampled.jsonl $(W)/student_reference.jsonl
	cat $^ > $@

# Fewer tokens, and MLPs of 1,280 channels instead of 4,864 that bring the hidden states to where they were; then LoRA
# for what the scores lost, and weights of 4 bits. No step is chosen by validation.
$(W)/narrow_groups.jsonl: $(W)/student_groups.jsonl
	awk 'NR % 3 == 1' $< > $@
$(W)/observed.jsonl: $(W)/small_sampled.jsonl
	awk 'NR % 12 == 1' $< > $@
$(W)/narrow: | $(W)/narrow_groups.jsonl $(W)/small.trained
	$(C) prune $(W)/small/model -o $@ --vocabulary 8192 --mlp-width 1280 --groups $(W)/narrow_groups.jsonl --passes 3
$(W)/narrow.trained: $(W)/student_groups.jsonl | $(W)/narrow
	$(C) train $(W)/narrow $< -o $(W)/learned --resume --method lora --learning-rate 1e-4 --teacher-weight 1 \
	  --step-tokens 4096 --micro-batch-tokens 4096 --max-steps 180 --average-last 0.33 --warmup-fraction 0.05
	touch $@
$(W)/student/config.json: $(W)/narrow.trained $(W)/observed.jsonl
	$(C) quantize $(W)/learned/model $(@D) --quantization int4 --sensitivity-data $(W)/observed.jsonl

$(W)/smollm2:
	$(C) download smollm2-135m $@
ALL := --rm student=$(W)/student --rm teacher=$(W)/small/model --rm nano=nano
LIKELIHOODS := --rm smollm2=$(W)/smollm2:likelihood --rm qwen=$(W)/qwen:likelihood
$(W)/data/pooled_validation.jsonl: $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl
	cat $^ > $@
$(RESULTS)/reading_student.json: $(W)/data/pooled_validation.jsonl $(W)/student/config.json
	$(C) eval reading $< $(ALL) --dtype bfloat16 --json $@
$(RESULTS)/student_%.json: $(W)/data/%_validation.jsonl $(W)/student/config.json | $(W)/smollm2
	$(C) eval bon $< $(ALL) $(LIKELIHOODS) --dtype bfloat16 --json $@
figures: $(RESULTS)/reading_student.json $(RESULTS)/student_mbpp.json $(RESULTS)/student_foreign.json

$(W)/tokens: | $(W)/small.trained
	$(C) prune $(W)/small/model -o $@ --vocabulary 8192
$(W)/tokens_int4: | $(W)/observed.jsonl $(W)/tokens
	$(C) quantize $(W)/tokens $@ --quantization int4 --sensitivity-data $(W)/observed.jsonl
copies: $(W)/data/mbpp_validation.jsonl $(W)/student/config.json | $(W)/tokens_int4
	.venv/bin/python benches smaller $(W)/small/model $< --rm tokens=$(W)/tokens --rm tokens_int4=$(W)/tokens_int4 \
	  --rm narrow=$(W)/narrow --rm learned=$(W)/learned/model --rm student=$(W)/student --save small
