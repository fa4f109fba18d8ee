"""What tests and benches share. Nothing that scores imports this."""

from codescaler.testing.accuracy import (
    FLOAT32_SCORE_LIMIT,
    assert_accurate,
    peer_linear,
    rms_distance,
    score_error_limit,
)
from codescaler.testing.checkpoints import edit_json, edit_tensors, save_chat, save_random_checkpoint, save_random_lora
from codescaler.testing.invariance import WIDTHS, branching_lists, forward_lists, use_cpu_linear
from codescaler.testing.timing import bench_device, device_name, fastest_dtype, matmul_peak, seconds_of
from codescaler.testing.trees import BRANCHES, random_qkv, random_tree
from codescaler.testing.workloads import (
    QWEN3_0_6B,
    QWEN3_1_7B,
    QWEN3_8B,
    WORKLOADS,
    ModelShape,
    Workload,
    attention_flops,
    score_flops,
    write_random_rm,
)

__all__ = [
    "BRANCHES",
    "FLOAT32_SCORE_LIMIT",
    "QWEN3_0_6B",
    "QWEN3_1_7B",
    "QWEN3_8B",
    "WIDTHS",
    "WORKLOADS",
    "ModelShape",
    "Workload",
    "assert_accurate",
    "attention_flops",
    "bench_device",
    "branching_lists",
    "device_name",
    "edit_json",
    "edit_tensors",
    "fastest_dtype",
    "forward_lists",
    "matmul_peak",
    "peer_linear",
    "random_qkv",
    "random_tree",
    "rms_distance",
    "save_chat",
    "save_random_checkpoint",
    "save_random_lora",
    "score_error_limit",
    "score_flops",
    "seconds_of",
    "use_cpu_linear",
    "write_random_rm",
]
