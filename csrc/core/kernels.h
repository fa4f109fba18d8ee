// The C++ kernels behind the `cpu` backend: plain functions over raw pointers, sizes and strides.
//
// Each instruction set fills one `Kernels` table in a translation unit of its own (isa_*.cpp); `kernels.cpp`
// says which of them this host can run. Formulas, shapes and dtypes are those of the functions of the same name
// in codescaler/ops/reference.py. Strides count elements; the last dimension is contiguous. Nothing here throws,
// prints or allocates.
#pragma once

#include <cstdint>

namespace codescaler {

struct BFloat16 {
  uint16_t bits;
};

enum class Activation { silu, gelu_tanh };

constexpr int64_t kKeyBlock = 64;  // plan.KEY_BLOCK

// What attention computes on any tensors: ops/spec.py's AttentionSpec, with 0 for None.
struct AttentionSpec {
  int64_t num_heads, num_kv_heads, head_dim;
  float scale, softcap;
  int64_t window;
};

// `num_tokens` query tokens of one tree node, from packed token `first_token` and position `first_position` on. Their
// results go to output rows from `out_row`, and the key blocks of their path stand from node_blocks[first_block] on.
// The same layout as a row of TreeBatch.tiles.
struct AttentionTile {
  int32_t first_block, first_token, num_tokens, out_row, first_position;
};

template <class T>
struct RmsNormArgs {
  const T* x;
  int64_t x_stride;
  const float* weight;
  float eps;
  float* residual;  // or null
  int64_t residual_stride;
  T* y;
  int64_t y_stride;
  int64_t num_rows, width;
};

template <class T>
struct QkNormRopeArgs {
  T* qkv;
  int64_t stride, num_tokens, num_heads, num_kv_heads, head_dim;
  const int32_t* positions;
  const float *cos, *sin;        // [positions, head_dim / 2]
  const float *q_norm, *k_norm;  // [head_dim] or null
  float eps;
};

template <class T>
struct GluArgs {
  const T* gate_up;
  int64_t gate_up_stride;
  T* y;
  int64_t y_stride, num_rows, width;
  Activation activation;
};

// Each row's running (maximum, sum of exp(logit - maximum)) takes in a block of its logits.
template <class T>
struct LogSumExpArgs {
  const T* logits;
  int64_t logits_stride, num_rows, width;
  float softcap;   // 0 for none
  float* running;  // [num_rows, 2]
};

struct RouteArgs {
  const float* logits;
  int64_t logits_stride, num_rows, num_experts, num_chosen;
  bool has_normalised_weights;
  int32_t* experts;  // [num_rows, num_chosen], as are the weights
  float* weights;
};

// The end of expert_mlp, whose products are oneDNN's: y of a token is the weighted sum of `num_chosen` rows.
template <class T>
struct CombineExpertsArgs {
  const T* outputs;      // [., width]
  const int64_t* rows;   // [num_tokens, num_chosen] of `outputs`
  const float* weights;  // [num_tokens, num_chosen]
  T* y;
  int64_t num_tokens, num_chosen, width;
};

template <class T>
struct PooledScoreArgs {
  const T* x;
  int64_t x_stride;
  const float* residual;
  int64_t residual_stride;
  const int64_t* rows;
  int64_t num_rows, width;
  const float* norm_weight;
  float eps;
  const float* head_weight;  // or null
  float head_bias;
  float* features;
  float* scores;
};

template <class T>
struct TreeAttentionArgs : AttentionSpec {
  const T* qkv;
  int64_t stride;
  const int32_t* block_tokens;  // [num_blocks, kKeyBlock]
  int64_t num_blocks;
  const int32_t* node_blocks;
  const AttentionTile* tiles;  // each of one token, or of at most kTileRows / (query heads of a kv head)
  int64_t num_tiles;
  T* out;
  int64_t out_stride;
  void* workspace;  // tree_attention_workspace_bytes, aligned to 64
};

template <class T>
struct Int8LinearArgs {
  const T* x;
  int64_t x_stride;
  const int8_t* weight;  // from pack_int8_linear of the same table, for the same activation_bits
  const float* scale;    // [num_outputs]
  const float* bias;     // [num_outputs] or null
  T* y;
  int64_t y_stride, num_rows, num_inputs, num_outputs;
  int32_t activation_bits;  // 8 or 16
  bool is_rotated;          // then num_inputs is a multiple of kHadamardBlock
  void* workspace;          // int8_linear_workspace_bytes, aligned to 64
};

constexpr int64_t kHadamardBlock = 64;        // types.HADAMARD_BLOCK
constexpr int64_t kMostInt8Inputs = 1 << 16;  // so many leave activations of 16 bits 255 steps

// Gradients. Rows are dense where no stride is given; what is float here is float for every T.

constexpr int64_t kWeightRows = 64;  // rows of x that one row of RmsNormBackwardArgs::grad_weight sums

template <class T>
struct RmsNormBackwardArgs {
  const float *z, *weight;
  float eps;
  const T* grad_y;
  const float* grad_residual;  // what comes to z from elsewhere, or null
  float *grad_z, *grad_weight;
  int64_t num_rows, width;
};

template <class T>
struct GluBackwardArgs {
  const T *gate_up, *grad_y;
  T* grad_gate_up;
  int64_t num_rows, width;
  Activation activation;
};

template <class T>
struct TreeAttentionBackwardArgs {
  TreeAttentionArgs<T> forward;  // without `out`; tiles of at most kTileRows tokens
  int64_t num_tokens;
  const T* grad_out;
  int64_t grad_out_stride;
  T* grad_qkv;  // q parts of tokens that are no queries are not written
  int64_t grad_qkv_stride;
};

// Every function takes the number of threads it may use last; results do not depend on it.
template <class T>
struct TypedKernels {
  void (*rms_norm)(const RmsNormArgs<T>&, int num_threads);
  void (*qk_norm_rope)(const QkNormRopeArgs<T>&, int num_threads);
  void (*glu)(const GluArgs<T>&, int num_threads);
  void (*log_sum_exp)(const LogSumExpArgs<T>&, int num_threads);
  void (*combine_experts)(const CombineExpertsArgs<T>&, int num_threads);
  void (*pooled_score)(const PooledScoreArgs<T>&, int num_threads);
  void (*tree_attention)(const TreeAttentionArgs<T>&, int num_threads);
  int64_t (*tree_attention_workspace_bytes)(const TreeAttentionArgs<T>&, int num_threads);
  void (*int8_linear)(const Int8LinearArgs<T>&, int num_threads);
  int64_t (*int8_linear_workspace_bytes)(const Int8LinearArgs<T>&, int num_threads);
  void (*rms_norm_backward)(const RmsNormBackwardArgs<T>&, int num_threads);
  void (*glu_backward)(const GluBackwardArgs<T>&, int num_threads);
  void (*tree_attention_backward)(const TreeAttentionBackwardArgs<T>&, int num_threads);
  int64_t (*tree_attention_backward_workspace_bytes)(const TreeAttentionBackwardArgs<T>&, int num_threads);
};

struct Kernels {
  const char* name;
  TypedKernels<float> float32;
  TypedKernels<BFloat16> bfloat16;
  void (*route)(const RouteArgs&, int num_threads);
  // An int8 weight [num_outputs, num_inputs], dense, to the layout that this table's int8_linear reads.
  int64_t (*packed_int8_bytes)(int64_t num_outputs, int64_t num_inputs, int32_t activation_bits);
  void (*pack_int8_linear)(const int8_t* weight, int64_t num_outputs, int64_t num_inputs, int32_t activation_bits,
                           int8_t* packed, int num_threads);
  // That int8_linear's activations are rounded to; the same in every table.
  int32_t (*int8_steps)(int64_t num_inputs, int32_t activation_bits);
};

extern const Kernels kGeneric;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Bf16;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonBf16;
#endif

// Tables that this host can run, best first; returns how many.
int supported_kernels(const Kernels* (&out)[4]);

// Query rows (tokens times heads per kv head) that one attention tile works on.
constexpr int64_t kTileRows = 96;

// Bradley-Terry loss and its gradient; see reference.py. Not worth an instruction set of its own.
template <class T>  // float or double
double pairwise_loss(const T* scores, const bool* labels, const int64_t* group_offsets, int64_t num_groups,
                     const float* margins, double center_coefficient, T* gradient);

}  // namespace codescaler
