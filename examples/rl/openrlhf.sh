# GRPO with CodeScaler's rewards, for OpenRLHF 0.11. Start the server and the run from the folder of this file:
#   codescaler serve LARK-Lab/CodeScaler-8B --port 8000
#   bash openrlhf.sh
# A row of the data has `problem`, a text, which is the prompt and the label. 2 x 16,000 of 128 a step are 250 steps.
python -m openrlhf.cli.train_ppo_ray \
    --actor.model_name_or_path Qwen/Qwen3-8B-Base \
    --data.prompt_dataset train.jsonl \
    --data.input_key problem \
    --data.label_key problem \
    --data.apply_chat_template \
    --data.max_samples 16000 \
    --data.max_len 20480 \
    --rollout.max_new_tokens 16384 \
    --rollout.batch_size 128 \
    --rollout.n_samples_per_prompt 8 \
    --rollout.temperature 0.6 \
    --train.batch_size 1024 \
    --train.num_episodes 2 \
    --train.max_epochs 1 \
    --train.colocate_all \
    --actor.adam.lr 1e-6 \
    --actor.lr_scheduler constant \
    --actor.eps_clip_low_high 0.2 0.28 \
    --actor.gradient_checkpointing_enable \
    --algo.advantage.estimator group_norm \
    --algo.kl.init_coef 0 \
    --reward.remote_url reward.py \
    --reward.clip_range 0 1000 \
    --ds.zero_stage 3 \
    --ds.packing_samples \
    --ds.attn_implementation flash_attention_2 \
    --vllm.num_engines 8 \
    --vllm.tensor_parallel_size 1 \
    --vllm.enable_prefix_caching \
    --vllm.enable_sleep \
    --ckpt.output_dir out
