# The reward model in the package, codescaler/nano, from problems to a model: 90 minutes on two cores with units
# for bfloat16. It is a narrow copy of the model that benches/small.mk makes, its teacher, in 4 bits.
#
#     make setup
#     make -f benches/nano.mk DATA=FOLDER           # build/nano/nano, a model like that in codescaler/nano
#     make -f benches/nano.mk DATA=FOLDER figures   # those of its model card, the test split among them
#     make -f benches/nano.mk DATA=FOLDER copies    # what each step on the way from its teacher kept
#
# The figures of rewritten programs and of copies go to benches/results, the others to RESULTS. FORMER=FOLDER measures
# rewritten programs by a former nano too, such as codescaler/nano of commit d87b8b9.
.PHONY: nano figures copies
nano:
include $(dir $(lastword $(MAKEFILE_LIST)))small.mk
nano: $(W)/nano/calibration.json

# What is learned beside verdicts: attempts have the order of their teacher's score and the log-likelihood of the language
# model that wrote them, standardised and added; benches/quality/data has these sums. Programs of other problems and
# those that do not answer have the score of the teacher. Each attempt is there twice more, rewritten, so that style and
# praise say less.
$(W)/rewritten.jsonl: $(W)/data/taught.jsonl
	$(C) data augment $< -o $@ $(REWRITE) --copies 2 --max-rewrites 3
$(W)/nano_sampled.jsonl: $(W)/rewritten.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1
$(W)/nano_reference.jsonl: $(W)/some_references.jsonl
	$(C) data negatives $< -o $@ --n 4 --seed 1 --kind other --kind renamed --kind near_miss
$(W)/nano_unjudged.jsonl: $(W)/nano_sampled.jsonl $(W)/nano_reference.jsonl
	cat $^ > $@
$(W)/nano_judged.jsonl: $(W)/nano_unjudged.jsonl $(W)/small.trained
	$(C) score $< --model $(W)/small/model --dtype bfloat16 -o $@
$(W)/nano_groups.jsonl: $(W)/nano_unjudged.jsonl $(W)/nano_judged.jsonl
	.venv/bin/python benches targets $^ $@

# Fewer tokens, and MLPs of 1,280 channels instead of 4,864 that bring the hidden states to where they were; then LoRA
# twice, the second on the first's merged weights, the mean of both, and weights of 4 bits.
$(W)/narrow_groups.jsonl: $(W)/nano_unjudged.jsonl
	awk 'NR % 4 == 1' $< > $@
$(W)/observed.jsonl: $(W)/small_sampled.jsonl
	awk 'NR % 12 == 1' $< > $@
$(W)/narrow: | $(W)/narrow_groups.jsonl $(W)/small.trained
	$(C) prune $(W)/small/model -o $@ --vocabulary 8192 --mlp-width 1280 --groups $(W)/narrow_groups.jsonl --passes 3
LEARN := --method lora --learning-rate 1e-4 --teacher-weight 1 --step-tokens 4096 --micro-batch-tokens 4096 \
  --max-steps 240 --average-last 0.33 --warmup-fraction 0.05
$(W)/once.trained: $(W)/nano_groups.jsonl | $(W)/narrow
	$(C) train $(W)/narrow $< -o $(basename $@) --resume $(LEARN)
	touch $@
$(W)/twice.trained: $(W)/nano_groups.jsonl | $(W)/once_merged
	$(C) train $(W)/once_merged $< -o $(basename $@) --resume $(LEARN) --seed 1
	touch $@
$(W)/once_merged $(W)/twice_merged: $(W)/%_merged: | $(W)/%.trained
	$(C) prune $(W)/$*/model -o $@ --layers 14
$(W)/learned: | $(W)/once_merged $(W)/twice_merged
	.venv/bin/python benches average $| $@
$(W)/nano/config.json: $(W)/observed.jsonl | $(W)/learned
	$(C) quantize $(W)/learned $(@D) --quantization int4 --sensitivity-data $(W)/observed.jsonl
$(W)/nano/calibration.json: $(W)/data/mbpp_validation.jsonl $(W)/nano/config.json
	$(C) eval calibration $< --model $(@D) --name "MBPP validation" -o $@

# Validation problems with programs of the sampler that was learned from, and of others; and the test split, once, when
# all choices are made: programs for the first 100 problems of ids 11-510.
$(W)/smollm2:
	$(C) download smollm2-135m $@
$(W)/test.jsonl: | $(W)/qwen
	$(C) data sample $(DATA)/mbpp.jsonl -o $@ --model $(W)/qwen --split test --limit 100 --n 10 --max-tokens 256 \
	  --batch-size 64 --seed 2
$(W)/test_labelled.jsonl: $(W)/test.jsonl
	$(C) data label $< $(DATA)/mbpp.jsonl -o $@
$(W)/data/pooled_validation.jsonl: $(W)/data/mbpp_validation.jsonl $(W)/data/foreign_validation.jsonl
	cat $^ > $@
BOTH := --rm nano=$(W)/nano --rm teacher=$(W)/small/model
LIKELIHOODS := --rm smollm2=$(W)/smollm2:likelihood --rm qwen=$(W)/qwen:likelihood
$(RESULTS)/nano_test.json: $(W)/test_labelled.jsonl
$(RESULTS)/nano_validation.json: $(W)/data/mbpp_validation.jsonl
$(RESULTS)/nano_foreign.json: $(W)/data/foreign_validation.jsonl
POOLS := $(foreach pool,validation foreign test,$(RESULTS)/nano_$(pool).json)
$(POOLS): $(W)/nano/calibration.json | $(W)/smollm2 $(W)/qwen
	$(C) eval bon $(filter %.jsonl,$^) $(BOTH) $(LIKELIHOODS) --dtype bfloat16 --json $@
$(RESULTS)/reading_nano.json: $(W)/data/pooled_validation.jsonl $(W)/nano/calibration.json
	$(C) eval reading $< $(BOTH) --dtype bfloat16 --json $@
figures: $(RESULTS)/reading_nano.json $(POOLS)
	.venv/bin/python benches robustness $(W)/data/mbpp_validation.jsonl $(BOTH) \
	  $(if $(FORMER),--rm former_nano=$(FORMER)) --save nano

$(W)/tokens: | $(W)/small.trained
	$(C) prune $(W)/small/model -o $@ --vocabulary 8192
$(W)/tokens_int4: | $(W)/observed.jsonl $(W)/tokens
	$(C) quantize $(W)/tokens $@ --quantization int4 --sensitivity-data $(W)/observed.jsonl
copies: $(W)/data/mbpp_validation.jsonl $(W)/nano/config.json | $(W)/tokens_int4
	.venv/bin/python benches smaller $(W)/small/model $< --rm tokens=$(W)/tokens --rm tokens_int4=$(W)/tokens_int4 \
	  --rm narrow=$(W)/narrow --rm learned=$(W)/learned --rm nano=$(W)/nano --save small
