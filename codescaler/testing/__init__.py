"""What tests and benches share. Nothing that scores imports this."""

from codescaler.testing.accuracy import (
    FLOAT32_SCORE_LIMIT,
    assert_accurate,
    measure_rms_distance,
    run_peer_linear,
    score_error_limit,
)
from codescaler.testing.checkpoints import (
    edit_json,
    edit_tensors,
    save_as_internlm2,
    save_chat,
    save_random_checkpoint,
    save_random_lora,
    split_value_head,
)
from codescaler.testing.invariance import WIDTHS, make_branching_lists, run_forward_lists
from codescaler.testing.timing import (
    bench_device,
    choose_fastest_dtype,
    describe_device,
    measure_kernel_seconds,
    measure_peak_flops,
    measure_seconds,
)
from codescaler.testing.trees import BRANCHES, make_random_qkv, make_random_tree
from codescaler.testing.workloads import (
    QWEN3_0_6B,
    QWEN3_1_7B,
    QWEN3_8B,
    QWEN3_30B_A3B,
    WORKLOADS,
    ModelShape,
    Workload,
    count_attention_flops,
    count_score_flops,
    write_random_rm,
)

__all__ = [
    "BRANCHES",
    "FLOAT32_SCORE_LIMIT",
    "QWEN3_0_6B",
    "QWEN3_1_7B",
    "QWEN3_8B",
    "QWEN3_30B_A3B",
    "WIDTHS",
    "WORKLOADS",
    "ModelShape",
    "Workload",
    "assert_accurate",
    "bench_device",
    "choose_fastest_dtype",
    "count_attention_flops",
    "count_score_flops",
    "describe_device",
    "edit_json",
    "edit_tensors",
    "make_branching_lists",
    "make_random_qkv",
    "make_random_tree",
    "measure_kernel_seconds",
    "measure_peak_flops",
    "measure_rms_distance",
    "measure_seconds",
    "run_forward_lists",
    "run_peer_linear",
    "save_as_internlm2",
    "save_chat",
    "save_random_checkpoint",
    "save_random_lora",
    "score_error_limit",
    "split_value_head",
    "write_random_rm",
]
