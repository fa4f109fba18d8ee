// codescaler._C: checks arguments, releases the GIL, calls the kernels of one instruction set.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "tensor.h"

namespace py = pybind11;

namespace codescaler {
namespace {

using OptionalObject = std::optional<py::object>;

struct FreeAligned {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using AlignedBytes = std::unique_ptr<std::byte[], FreeAligned>;

// Lends memory, and keeps the largest piece that came back: new pages cost more than a kernel's use of them.
class Workspaces {
 public:
  template <class Use>
  void lend(int64_t bytes, Use use) {
    Piece piece = take();
    if (piece.bytes < bytes)
      piece = {AlignedBytes(static_cast<std::byte*>(::operator new[](size_t(bytes), std::align_val_t(64)))), bytes};
    use(piece.memory.get());
    give(std::move(piece));
  }

 private:
  struct Piece {
    AlignedBytes memory;
    int64_t bytes = 0;
  };

  Piece take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(kept_, {});
  }

  void give(Piece piece) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (piece.bytes > kept_.bytes) std::swap(kept_, piece);  // `piece` is freed after the lock
  }

  std::mutex mutex_;
  Piece kept_;
};

const float* optional_floats(const std::optional<Tensor>& tensor, std::initializer_list<int64_t> shape) {
  return tensor ? tensor->get<float>(shape) : nullptr;
}

std::optional<Tensor> optional_tensor(const OptionalObject& object, const char* name) {
  if (!object || object->is_none()) return std::nullopt;
  return Tensor(*object, name);
}

void check_below(const int32_t* values, int64_t count, int64_t bound, const Tensor& tensor) {
  if (count > 0 &&
      (*std::min_element(values, values + count) < 0 || *std::max_element(values, values + count) >= bound))
    tensor.fail("holds a value outside 0.." + std::to_string(bound - 1));
}

std::vector<const Kernels*> all_supported() {
  const Kernels* tables[4];
  const int count = supported_kernels(tables);
  return {tables, tables + count};
}

int64_t positive(const py::handle& object, const char* name) {
  const auto value = object.attr(name).cast<int64_t>();
  if (value < 1) throw py::value_error(std::string(name) + " is " + std::to_string(value) + "; give 1 at least");
  return value;
}

// Fills in the three sizes of ops/spec.py's Heads.
void read_heads(const py::handle& heads, int64_t& num_heads, int64_t& num_kv_heads, int64_t& head_dim) {
  num_heads = positive(heads, "num_heads"), num_kv_heads = positive(heads, "num_kv_heads");
  head_dim = positive(heads, "head_dim");
  if (num_heads % num_kv_heads) throw py::value_error("num_heads is not a multiple of num_kv_heads");
  if (head_dim % 2) throw py::value_error("head_dim is odd, " + std::to_string(head_dim));
}

// ops/spec.py's AttentionSpec.
AttentionSpec read_spec(const py::handle& object) {
  AttentionSpec spec{};
  read_heads(object.attr("heads"), spec.num_heads, spec.num_kv_heads, spec.head_dim);
  spec.scale = object.attr("scale").cast<float>();
  if (!object.attr("softcap").is_none()) spec.softcap = object.attr("softcap").cast<float>();
  if (!object.attr("window").is_none()) spec.window = positive(object, "window");
  return spec;
}

// Which tokens attend to which others. It is checked here, once for every layer that runs on it, and copied, so that
// no later change of a tensor takes a kernel out of bounds.
class AttentionPlan {
 public:
  AttentionPlan(int64_t num_tokens, const py::object& block_tokens, const py::object& node_blocks,
                const py::object& tiles)
      : num_tokens_(num_tokens) {
    const Tensor tokens(block_tokens, "attention plan: block_tokens"),
        blocks(node_blocks, "attention plan: node_blocks"), rows(tiles, "attention plan: tiles");
    const int32_t* token = tokens.get<int32_t>({-1, kKeyBlock});
    block_tokens_.assign(token, token + tokens.size(0) * kKeyBlock);
    if (std::any_of(block_tokens_.begin(), block_tokens_.end(), [=](int32_t t) { return t >= num_tokens; }))
      tokens.fail("holds a token that is none of " + std::to_string(num_tokens));
    const int32_t* block = blocks.get<int32_t>({-1});
    node_blocks_.assign(block, block + blocks.size(0));
    check_below(block, blocks.size(0), tokens.size(0), blocks);
    const auto* tile = reinterpret_cast<const AttentionTile*>(rows.get<int32_t>({-1, 5}));
    tiles_.assign(tile, tile + rows.size(0));
    for (size_t t = 0; t < tiles_.size(); ++t) check(tiles_[t], rows, t);
  }

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_rows() const { return num_rows_; }
  int64_t most_tokens() const { return most_tokens_; }

  // Everything of a kernel's arguments that does not depend on a layer.
  template <class T>
  TreeAttentionArgs<T> args(const AttentionSpec& spec) const {
    TreeAttentionArgs<T> a{};
    static_cast<AttentionSpec&>(a) = spec;
    a.block_tokens = block_tokens_.data(), a.num_blocks = int64_t(block_tokens_.size()) / kKeyBlock;
    a.node_blocks = node_blocks_.data();
    a.tiles = tiles_.data(), a.num_tiles = int64_t(tiles_.size());
    return a;
  }

 private:
  void check(const AttentionTile& tile, const Tensor& rows, size_t index) {
    const int64_t count = tile.num_tokens, end = int64_t(tile.first_position) + count;
    const int64_t end_block = tile.first_block + (end + kKeyBlock - 1) / kKeyBlock;
    if (tile.first_block < 0 || tile.first_token < 0 || count < 1 || tile.out_row < 0 || tile.first_position < 0 ||
        tile.first_token + count > num_tokens_ || end_block > int64_t(node_blocks_.size()))
      rows.fail("holds a tile outside the tree, row " + std::to_string(index));
    num_rows_ = std::max(num_rows_, tile.out_row + count);
    most_tokens_ = std::max(most_tokens_, count);
  }

  int64_t num_tokens_, num_rows_ = 0, most_tokens_ = 0;
  std::vector<int32_t> block_tokens_, node_blocks_;
  std::vector<AttentionTile> tiles_;
};

// The tensors of attention, forward and backward: `out` is the result, or its gradient.
struct AttentionTensors {
  Tensor qkv, out;
  const AttentionPlan& plan;
  AttentionSpec spec;

  AttentionTensors(const py::object& qkv_, const py::object& spec_, const AttentionPlan& plan_, const py::object& out_)
      : qkv(qkv_, "tree_attention: qkv"), out(out_, "tree_attention: out"), plan(plan_), spec(read_spec(spec_)) {}

  // Everything but the workspace, for tiles with `group` rows a token.
  template <class T>
  TreeAttentionArgs<T> args(int64_t group) const {
    if (plan.most_tokens() > 1 && plan.most_tokens() * group > kTileRows)
      qkv.fail("comes with tiles of " + std::to_string(plan.most_tokens()) + " tokens, of " + std::to_string(group) +
               " rows each; plan them for " + std::to_string(kTileRows) + " rows");
    auto a = plan.args<T>(spec);
    a.qkv = qkv.rows<T>(plan.num_tokens(), (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim);
    a.stride = qkv.row_stride();
    a.out = out.rows<T>(plan.num_rows(), spec.num_heads * spec.head_dim);
    a.out_stride = out.row_stride();
    return a;
  }
};

// The kernels of one instruction set. Tensors are anything with __dlpack__; results are written into arguments.
class KernelSet {
 public:
  explicit KernelSet(const std::string& isa) {
    for (const Kernels* table : all_supported())
      if (table->name == isa) table_ = table;
    if (!table_) throw std::invalid_argument("instruction set '" + isa + "' is not supported by this CPU");
  }

  std::string isa() const { return table_->name; }

  void rms_norm(const py::object& x, const py::object& weight, float eps, const OptionalObject& residual,
                const py::object& y, int threads) const {
    const Tensor x_(x, "rms_norm: x"), weight_(weight, "rms_norm: weight"), y_(y, "rms_norm: y");
    const auto residual_ = optional_tensor(residual, "rms_norm: residual");
    call(x_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      const int64_t rows = x_.size(0), width = weight_.size(0);
      return [=, run = kernels.rms_norm,
              a = RmsNormArgs<T>{x_.rows<T>(-1, width), x_.row_stride(), weight_.get<float>({-1}), eps,
                                 residual_ ? residual_->rows<float>(rows, width) : nullptr,
                                 residual_ ? residual_->row_stride() : 0, y_.rows<T>(rows, width), y_.row_stride(),
                                 rows, width}] { run(a, threads); };
    });
  }

  void qk_norm_rope(const py::object& qkv, const py::object& heads, const py::object& positions,
                    const std::pair<py::object, py::object>& rotary, const OptionalObject& q_norm,
                    const OptionalObject& k_norm, float eps, int threads) const {
    const Tensor qkv_(qkv, "qk_norm_rope: qkv"), positions_(positions, "qk_norm_rope: positions"),
        cos_(rotary.first, "qk_norm_rope: cos"), sin_(rotary.second, "qk_norm_rope: sin");
    const auto q_norm_ = optional_tensor(q_norm, "qk_norm_rope: q_norm");
    const auto k_norm_ = optional_tensor(k_norm, "qk_norm_rope: k_norm");
    int64_t num_heads, num_kv_heads, head_dim;
    read_heads(heads, num_heads, num_kv_heads, head_dim);
    call(qkv_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      QkNormRopeArgs<T> a{};
      a.qkv = qkv_.rows<T>(-1, (num_heads + 2 * num_kv_heads) * head_dim);
      a.stride = qkv_.row_stride(), a.num_tokens = qkv_.size(0);
      a.num_heads = num_heads, a.num_kv_heads = num_kv_heads, a.head_dim = head_dim;
      a.positions = positions_.get<int32_t>({a.num_tokens});
      a.cos = cos_.get<float>({-1, head_dim / 2}), a.sin = sin_.get<float>({cos_.size(0), head_dim / 2});
      check_below(a.positions, a.num_tokens, cos_.size(0), positions_);
      a.q_norm = optional_floats(q_norm_, {head_dim}), a.k_norm = optional_floats(k_norm_, {head_dim}), a.eps = eps;
      return [=, run = kernels.qk_norm_rope] { run(a, threads); };
    });
  }

  void glu(const py::object& gate_up, bool is_gelu, const py::object& y, int threads) const {
    const Tensor gate_up_(gate_up, "glu: gate_up"), y_(y, "glu: y");
    call(y_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      T* out = y_.rows<T>(-1, -1);
      const int64_t rows = y_.size(0), width = y_.size(1);
      return [=, run = kernels.glu,
              a = GluArgs<T>{gate_up_.rows<T>(rows, 2 * width), gate_up_.row_stride(), out, y_.row_stride(), rows,
                             width, is_gelu ? Activation::gelu_tanh : Activation::silu}] { run(a, threads); };
    });
  }

  void log_sum_exp(const py::object& logits, const py::object& running, float softcap, int threads) const {
    const Tensor logits_(logits, "log_sum_exp: logits"), running_(running, "log_sum_exp: running");
    call(logits_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      const T* data = logits_.rows<T>(-1, -1);
      const int64_t rows = logits_.size(0), width = logits_.size(1);
      return [=, run = kernels.log_sum_exp,
              a = LogSumExpArgs<T>{data, logits_.row_stride(), rows, width, softcap, running_.get<float>({rows, 2})}] {
        run(a, threads);
      };
    });
  }

  void route(const py::object& logits, bool has_normalised_weights, const py::object& experts,
             const py::object& weights, int threads) const {
    const Tensor logits_(logits, "route: logits"), experts_(experts, "route: experts"),
        weights_(weights, "route: weights");
    RouteArgs a{};
    a.logits = logits_.rows<float>(-1, -1), a.logits_stride = logits_.row_stride();
    a.num_rows = logits_.size(0), a.num_experts = logits_.size(1);
    a.experts = experts_.get<int32_t>({a.num_rows, -1}), a.num_chosen = experts_.size(1);
    a.weights = weights_.get<float>({a.num_rows, a.num_chosen});
    a.has_normalised_weights = has_normalised_weights;
    if (a.num_chosen < 1 || a.num_chosen > a.num_experts)
      experts_.fail("has room for " + std::to_string(a.num_chosen) + " of " + std::to_string(a.num_experts));
    if (threads < 1) logits_.fail("is to be computed on " + std::to_string(threads) + " threads");
    py::gil_scoped_release release;
    table_->route(a, threads);
  }

  void combine_experts(const py::object& outputs, const py::object& rows, const py::object& weights,
                       const py::object& y, int threads) const {
    const Tensor outputs_(outputs, "combine_experts: outputs"), rows_(rows, "combine_experts: rows"),
        weights_(weights, "combine_experts: weights"), y_(y, "combine_experts: y");
    call(y_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      CombineExpertsArgs<T> a{};
      a.y = y_.get<T>({-1, -1}), a.num_tokens = y_.size(0), a.width = y_.size(1);
      a.outputs = outputs_.get<T>({-1, a.width});
      a.rows = rows_.get<int64_t>({a.num_tokens, -1}), a.num_chosen = rows_.size(1);
      a.weights = weights_.get<float>({a.num_tokens, a.num_chosen});
      const int64_t *begin = a.rows, *end = begin + a.num_tokens * a.num_chosen;
      if (std::any_of(begin, end, [&](int64_t row) { return row < 0 || row >= outputs_.size(0); }))
        rows_.fail("holds an index outside outputs");
      return [=, run = kernels.combine_experts] { run(a, threads); };
    });
  }

  void pooled_score(const py::object& x, const py::object& residual, const py::object& rows,
                    const py::object& norm_weight, float eps, const OptionalObject& head_weight, float head_bias,
                    const py::object& features, const OptionalObject& scores, int threads) const {
    const Tensor x_(x, "pooled_score: x"), residual_(residual, "pooled_score: residual"),
        rows_(rows, "pooled_score: rows"), norm_(norm_weight, "pooled_score: norm_weight"),
        features_(features, "pooled_score: features");
    const auto head_ = optional_tensor(head_weight, "pooled_score: head_weight");
    const auto scores_ = optional_tensor(scores, "pooled_score: scores");
    call(x_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      const T* data = x_.rows<T>(-1, norm_.size(0));
      const int64_t num = rows_.size(0), width = norm_.size(0);
      const int64_t* at = rows_.get<int64_t>({-1});
      if (num > 0 && (*std::min_element(at, at + num) < 0 || *std::max_element(at, at + num) >= x_.size(0)))
        rows_.fail("holds an index outside x");
      if (head_.has_value() != scores_.has_value()) x_.fail("has head_weight without scores, or the reverse");
      return [=, run = kernels.pooled_score,
              a = PooledScoreArgs<T>{data, x_.row_stride(), residual_.rows<float>(x_.size(0), width),
                                     residual_.row_stride(), at, num, width, norm_.get<float>({-1}), eps,
                                     optional_floats(head_, {1, width}), head_bias, features_.get<float>({num, width}),
                                     scores_ ? scores_->get<float>({num}) : nullptr}] { run(a, threads); };
    });
  }

  void tree_attention(const py::object& qkv, const py::object& spec, const AttentionPlan& plan, const py::object& out,
                      int threads) const {
    const AttentionTensors tensors(qkv, spec, plan, out);
    call(tensors.qkv, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      auto a = tensors.args<T>(tensors.spec.num_heads / tensors.spec.num_kv_heads);
      return [=, workspaces = workspaces_.get(), run = kernels.tree_attention,
              measure = kernels.tree_attention_workspace_bytes]() mutable {
        workspaces->lend(measure(a, threads), [&](void* memory) {
          a.workspace = memory;
          run(a, threads);
        });
      };
    });
  }

  static void check_activation_bits(int32_t bits) {
    if (bits != 8 && bits != 16) throw py::value_error("activation_bits is " + std::to_string(bits) + ", not 8 or 16");
  }

  int64_t packed_int8_bytes(int64_t num_outputs, int64_t num_inputs, int32_t activation_bits) const {
    check_activation_bits(activation_bits);
    return table_->packed_int8_bytes(num_outputs, num_inputs, activation_bits);
  }

  void pack_int8_linear(const py::object& weight, int32_t activation_bits, const py::object& packed,
                        int threads) const {
    const Tensor weight_(weight, "pack_int8_linear: weight"), packed_(packed, "pack_int8_linear: packed");
    const int8_t* values = weight_.get<int8_t>({-1, -1});
    const int64_t outputs = weight_.size(0), inputs = weight_.size(1);
    if (inputs > kMostInt8Inputs) weight_.fail("has more than " + std::to_string(kMostInt8Inputs) + " inputs");
    int8_t* out = packed_.get<int8_t>({packed_int8_bytes(outputs, inputs, activation_bits)});
    py::gil_scoped_release release;
    table_->pack_int8_linear(values, outputs, inputs, activation_bits, out, threads);
  }

  void int8_linear(const py::object& x, const py::object& packed, const py::object& scale, const OptionalObject& bias,
                   int32_t activation_bits, bool is_rotated, const py::object& y, int threads) const {
    const Tensor x_(x, "int8_linear: x"), packed_(packed, "int8_linear: packed"), scale_(scale, "int8_linear: scale"),
        y_(y, "int8_linear: y");
    const auto bias_ = optional_tensor(bias, "int8_linear: bias");
    call(x_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      Int8LinearArgs<T> a{};
      a.x = x_.rows<T>(-1, -1), a.x_stride = x_.row_stride();
      a.num_rows = x_.size(0), a.num_inputs = x_.size(1), a.num_outputs = scale_.size(0);
      if (a.num_inputs > kMostInt8Inputs) x_.fail("has more than " + std::to_string(kMostInt8Inputs) + " columns");
      a.activation_bits = activation_bits, a.is_rotated = is_rotated;
      if (is_rotated && a.num_inputs % kHadamardBlock != 0)
        x_.fail("has no multiple of " + std::to_string(kHadamardBlock) +
                " columns, so it cannot have a Hadamard transform");
      a.weight = packed_.get<int8_t>({packed_int8_bytes(a.num_outputs, a.num_inputs, activation_bits)});
      a.scale = scale_.get<float>({-1}), a.bias = optional_floats(bias_, {a.num_outputs});
      a.y = y_.rows<T>(a.num_rows, a.num_outputs), a.y_stride = y_.row_stride();
      return [=, workspaces = workspaces_.get(), run = kernels.int8_linear,
              measure = kernels.int8_linear_workspace_bytes]() mutable {
        workspaces->lend(measure(a, threads), [&](void* memory) {
          a.workspace = memory;
          run(a, threads);
        });
      };
    });
  }

  void rms_norm_backward(const py::object& z, const py::object& weight, float eps, const py::object& grad_y,
                         const OptionalObject& grad_residual, const py::object& grad_z, const py::object& grad_weight,
                         int threads) const {
    const Tensor z_(z, "rms_norm_backward: z"), weight_(weight, "rms_norm_backward: weight"),
        grad_y_(grad_y, "rms_norm_backward: grad_y"), grad_z_(grad_z, "rms_norm_backward: grad_z"),
        sums_(grad_weight, "rms_norm_backward: grad_weight");
    const auto also_ = optional_tensor(grad_residual, "rms_norm_backward: grad_residual");
    call(grad_y_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      const T* grad = grad_y_.get<T>({-1, weight_.size(0)});
      const int64_t rows = grad_y_.size(0), width = weight_.size(0);
      return [=, run = kernels.rms_norm_backward,
              a = RmsNormBackwardArgs<T>{z_.get<float>({rows, width}), weight_.get<float>({-1}), eps, grad,
                                         optional_floats(also_, {rows, width}), grad_z_.get<float>({rows, width}),
                                         sums_.get<float>({(rows + kWeightRows - 1) / kWeightRows, width}), rows,
                                         width}] { run(a, threads); };
    });
  }

  void glu_backward(const py::object& gate_up, bool is_gelu, const py::object& grad_y, const py::object& grad_gate_up,
                    int threads) const {
    const Tensor gate_up_(gate_up, "glu_backward: gate_up"), grad_y_(grad_y, "glu_backward: grad_y"),
        out_(grad_gate_up, "glu_backward: grad_gate_up");
    call(grad_y_, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      const T* grad = grad_y_.get<T>({-1, -1});
      const int64_t rows = grad_y_.size(0), width = grad_y_.size(1);
      return [=, run = kernels.glu_backward,
              a = GluBackwardArgs<T>{gate_up_.get<T>({rows, 2 * width}), grad, out_.get<T>({rows, 2 * width}), rows,
                                     width, is_gelu ? Activation::gelu_tanh : Activation::silu}] { run(a, threads); };
    });
  }

  void tree_attention_backward(const py::object& qkv, const py::object& spec, const AttentionPlan& plan,
                               const py::object& grad_out, const py::object& grad_qkv, int threads) const {
    const AttentionTensors tensors(qkv, spec, plan, grad_out);
    const Tensor grad_qkv_(grad_qkv, "tree_attention_backward: grad_qkv");
    call(tensors.qkv, threads, [&](auto type, const auto& kernels) {
      using T = decltype(type);
      TreeAttentionBackwardArgs<T> a{};
      a.forward = tensors.args<T>(1);
      a.num_tokens = plan.num_tokens();
      a.grad_out = a.forward.out, a.grad_out_stride = a.forward.out_stride;
      a.grad_qkv = grad_qkv_.rows<T>(a.num_tokens, tensors.qkv.size(1));
      a.grad_qkv_stride = grad_qkv_.row_stride();
      return [=, workspaces = workspaces_.get(), run = kernels.tree_attention_backward,
              measure = kernels.tree_attention_backward_workspace_bytes]() mutable {
        workspaces->lend(measure(a, threads), [&](void* memory) {
          a.forward.workspace = memory;
          run(a, threads);
        });
      };
    });
  }

 private:
  // Picks the kernels of `main`'s dtype, lets `prepare` check and gather arguments, and runs what it returns without
  // the GIL.
  template <class Prepare>
  void call(const Tensor& main, int threads, Prepare prepare) const {
    if (threads < 1) main.fail("is to be computed on " + std::to_string(threads) + " threads");
    if (main.dtype() == DType::bfloat16) {
      auto run = prepare(BFloat16{}, table_->bfloat16);
      py::gil_scoped_release release;
      run();
    } else {
      auto run = prepare(float{}, table_->float32);
      py::gil_scoped_release release;
      run();
    }
  }

  const Kernels* table_ = nullptr;
  std::unique_ptr<Workspaces> workspaces_ = std::make_unique<Workspaces>();
};

template <class T>
double pairwise_loss_of(const Tensor& scores_, const py::object& labels, const py::object& group_offsets,
                        const OptionalObject& margins, double center_coefficient, const py::object& gradient) {
  const Tensor labels_(labels, "pairwise_loss: labels"), offsets_(group_offsets, "pairwise_loss: group_offsets"),
      gradient_(gradient, "pairwise_loss: gradient");
  const auto margins_ = optional_tensor(margins, "pairwise_loss: margins");
  const T* s = scores_.get<T>({-1});
  const int64_t num = scores_.size(0), *offsets = offsets_.get<int64_t>({-1}), num_groups = offsets_.size(0) - 1;
  if (num_groups < 0 || offsets[0] != 0 || offsets[num_groups] != num ||
      !std::is_sorted(offsets, offsets + num_groups + 1))
    offsets_.fail("does not rise from 0 to the number of scores, " + std::to_string(num));
  const bool* right = labels_.get<bool>({num});
  const float* margin = optional_floats(margins_, {num_groups});
  T* out = gradient_.get<T>({num});
  py::gil_scoped_release release;
  return pairwise_loss(s, right, offsets, num_groups, margin, center_coefficient, out);
}

double pairwise_loss_of_any(const py::object& scores, const py::object& labels, const py::object& group_offsets,
                            const OptionalObject& margins, double center_coefficient, const py::object& gradient) {
  const Tensor scores_(scores, "pairwise_loss: scores");
  const auto call = scores_.dtype() == DType::float64 ? pairwise_loss_of<double> : pairwise_loss_of<float>;
  return call(scores_, labels, group_offsets, margins, center_coefficient, gradient);
}

}  // namespace
}  // namespace codescaler

PYBIND11_MODULE(_C, m) {
  using codescaler::AttentionPlan, codescaler::KernelSet;
  m.doc() = "C++ kernels of the cpu backend; import torch first, so that both share one OpenMP.";
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const auto* table : codescaler::all_supported()) names.emplace_back(table->name);
    return names;
  });
  m.def("pairwise_loss", &codescaler::pairwise_loss_of_any);
  m.attr("TILE_ROWS") = codescaler::kTileRows;
#ifdef _OPENMP
  m.attr("HAS_OPENMP") = true;
#else
  m.attr("HAS_OPENMP") = false;
#endif
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  m.attr("IS_INTEL") = __builtin_cpu_is("intel") != 0;
#else
  m.attr("IS_INTEL") = false;
#endif
  py::class_<AttentionPlan>(m, "AttentionPlan")
      .def(py::init<int64_t, const py::object&, const py::object&, const py::object&>())
      .def_property_readonly("num_rows", &AttentionPlan::num_rows);
  py::class_<KernelSet>(m, "KernelSet")
      .def(py::init<const std::string&>())
      .def_property_readonly("isa", &KernelSet::isa)
      .def("rms_norm", &KernelSet::rms_norm)
      .def("qk_norm_rope", &KernelSet::qk_norm_rope)
      .def("glu", &KernelSet::glu)
      .def("log_sum_exp", &KernelSet::log_sum_exp)
      .def("route", &KernelSet::route)
      .def("combine_experts", &KernelSet::combine_experts)
      .def("pooled_score", &KernelSet::pooled_score)
      .def("tree_attention", &KernelSet::tree_attention)
      .def("packed_int8_bytes", &KernelSet::packed_int8_bytes)
      .def("pack_int8_linear", &KernelSet::pack_int8_linear)
      .def("int8_linear", &KernelSet::int8_linear)
      .def("rms_norm_backward", &KernelSet::rms_norm_backward)
      .def("glu_backward", &KernelSet::glu_backward)
      .def("tree_attention_backward", &KernelSet::tree_attention_backward);
}
