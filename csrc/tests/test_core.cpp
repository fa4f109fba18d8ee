// Runs every kernel of every instruction set this host has against plain double loops, on buffers that end exactly
// where they should, under AddressSanitizer and UndefinedBehaviorSanitizer (`make test-asan`).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "../core/kernels.h"

using namespace codescaler;

namespace {

int num_checks = 0;
std::mt19937 generator(0);

void check(double error, double limit, const char* isa, const char* what) {
  ++num_checks;
  if (error <= limit) return;  // a NaN error fails
  std::printf("%s %s: error %g is above %g\n", isa, what, error, limit);
  std::exit(1);
}

float widen(float x) { return x; }
float widen(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
void narrow(float x, float& out) { out = x; }
void narrow(float x, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  out.bits = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// That rows have the bits that they have in a batch, which no rounding explains away.
template <class T>
void check_bits(const T* found, const T* expected, int64_t count, const char* isa, const char* what) {
  check(std::memcmp(found, expected, size_t(count) * sizeof(T)) ? 1 : 0, 0, isa, what);
}
template <class T>
double rounding() {
  return sizeof(T) == 4 ? 2e-6 : 8e-3;
}

// A heap block per array, so that one element too far is seen.
template <class T>
std::vector<T> random_values(int64_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) narrow(normal(generator), value);
  values.shrink_to_fit();
  return values;
}

template <class T>
std::vector<T> zeros(int64_t count) {
  return std::vector<T>(static_cast<size_t>(count));
}

std::unique_ptr<void, decltype(&std::free)> workspace_of(int64_t bytes) {
  return {std::aligned_alloc(64, size_t(bytes)), std::free};
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

template <class T>
void test_rms_norm(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  const auto x = random_values<T>(rows * width);
  const auto weight = random_values<float>(width);
  for (const bool has_residual : {false, true}) {
    auto residual = random_values<float>(rows * width);
    const auto before = residual;
    auto y = zeros<T>(rows * width);
    kernels.rms_norm({x.data(), width, weight.data(), 1e-6f, has_residual ? residual.data() : nullptr, width, y.data(),
                      width, rows, width},
                     2);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      const auto z = [&](int64_t i) { return double(widen(x[size_t(i)])) + (has_residual ? before[size_t(i)] : 0.0f); };
      for (int64_t i = 0; i < width; ++i) squares += z(r * width + i) * z(r * width + i);
      for (int64_t i = 0; i < width; ++i) {
        const double expected = z(r * width + i) / std::sqrt(squares / double(width) + 1e-6) * weight[size_t(i)];
        check(std::fabs(widen(y[size_t(r * width + i)]) - expected), rounding<T>() * (1 + std::fabs(expected)),
              table.name, "rms_norm");
      }
    }
  }
}

template <class T>
void test_glu(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  const auto gate_up = random_values<T>(rows * 2 * width, 3.0f);
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    auto y = zeros<T>(rows * width);
    kernels.glu({gate_up.data(), 2 * width, y.data(), width, rows, width, activation}, 2);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) {
        const double gate = widen(gate_up[size_t(r * 2 * width + i)]),
                     up = widen(gate_up[size_t((r * 2 + 1) * width + i)]);
        const double expected = (activation == Activation::silu ? silu(gate) : gelu_tanh(gate)) * up;
        check(std::fabs(widen(y[size_t(r * width + i)]) - expected), rounding<T>() * (1 + std::fabs(expected)),
              table.name, "glu");
      }
  }
}

template <class T>
void test_log_sum_exp(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  for (const float softcap : {0.0f, 2.0f}) {
    std::vector<float> running;
    for (int64_t r = 0; r < rows; ++r) running.insert(running.end(), {-INFINITY, 0.0f});
    running.shrink_to_fit();
    std::vector<double> sums(static_cast<size_t>(rows));
    for (int64_t block = 0; block < 2; ++block) {
      const auto logits = random_values<T>(rows * width, 3.0f);
      kernels.log_sum_exp({logits.data(), width, rows, width, softcap, running.data()}, 2);
      for (int64_t i = 0; i < rows * width; ++i) {
        const double x = widen(logits[size_t(i)]);
        sums[size_t(i / width)] += std::exp(softcap ? softcap * std::tanh(x / softcap) : x);
      }
    }
    for (int64_t r = 0; r < rows; ++r)
      check(std::fabs(running[size_t(2 * r)] + std::log(running[size_t(2 * r + 1)]) - std::log(sums[size_t(r)])), 2e-5,
            table.name, "log_sum_exp");
  }
}

void test_route(const Kernels& table, int64_t rows, int64_t experts, int64_t chosen) {
  auto logits = random_values<float>(rows * experts, 2.0f);
  logits[size_t(experts - 1)] = logits[0];  // a tie in the first row
  for (const bool is_normalised : {false, true}) {
    auto indices = zeros<int32_t>(rows * chosen);
    auto weights = zeros<float>(rows * chosen);
    table.route({logits.data(), experts, rows, experts, chosen, is_normalised, indices.data(), weights.data()}, 2);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = logits.data() + r * experts;
      std::vector<int32_t> order(static_cast<size_t>(experts));
      for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      double total = 0;
      for (int64_t c = 0; c < (is_normalised ? chosen : experts); ++c) total += std::exp(double(row[order[size_t(c)]]));
      for (int64_t c = 0; c < chosen; ++c) {
        const int32_t expert = order[size_t(c)];
        check(indices[size_t(r * chosen + c)] == expert ? 0 : 1, 0, table.name, "route experts");
        check(std::fabs(weights[size_t(r * chosen + c)] - std::exp(double(row[expert])) / total), 2e-6, table.name,
              "route weights");
      }
    }
  }
}

template <class T>
void test_combine_experts(const Kernels& table, const TypedKernels<T>& kernels, int64_t width) {
  const int64_t tokens = 3, chosen = 2, outputs = 7;
  const auto values = random_values<T>(outputs * width);
  const auto weights = random_values<float>(tokens * chosen);
  const std::vector<int64_t> rows = {6, 0, 3, 2, 5, 6};
  auto y = zeros<T>(tokens * width);
  kernels.combine_experts({values.data(), rows.data(), weights.data(), y.data(), tokens, chosen, width}, 2);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < width; ++i) {
      double expected = 0, size = 0;
      for (int64_t c = 0; c < chosen; ++c) {
        const double term =
            double(weights[size_t(t * chosen + c)]) * widen(values[size_t(rows[size_t(t * chosen + c)] * width + i)]);
        expected += term, size += std::fabs(term);
      }
      check(std::fabs(widen(y[size_t(t * width + i)]) - expected), rounding<T>() * (1 + size), table.name,
            "combine_experts");
    }
}

template <class T>
void test_pooled_score(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  const auto x = random_values<T>(rows * width);
  const auto residual = random_values<float>(rows * width), weight = random_values<float>(width),
             head = random_values<float>(width);
  const std::vector<int64_t> index = {rows - 1, 0};
  auto features = zeros<float>(2 * width), scores = zeros<float>(2);
  kernels.pooled_score({x.data(), width, residual.data(), width, index.data(), 2, width, weight.data(), 1e-6f,
                        head.data(), 0.5f, features.data(), scores.data()},
                       2);
  for (size_t b = 0; b < 2; ++b) {
    double squares = 0, score = 0.5, size = 0;
    const auto z = [&](int64_t i) {
      return double(widen(x[size_t(index[b] * width + i)])) + residual[size_t(index[b] * width + i)];
    };
    for (int64_t i = 0; i < width; ++i) squares += z(i) * z(i);
    for (int64_t i = 0; i < width; ++i) {
      const double term = z(i) / std::sqrt(squares / double(width) + 1e-6) * weight[size_t(i)] * head[size_t(i)];
      score += term, size += std::fabs(term);
    }
    check(std::fabs(scores[b] - score), 2e-6 * (1 + size), table.name, "pooled_score");
  }
}

template <class T>
void test_qk_norm_rope(const Kernels& table, const TypedKernels<T>& kernels, int64_t head_dim) {
  const int64_t tokens = 3, heads = 3, kv_heads = 1, width = (heads + 2 * kv_heads) * head_dim, half = head_dim / 2;
  auto qkv = random_values<T>(tokens * width);
  const auto before = qkv;
  const std::vector<int32_t> positions = {4, 0, 2};
  const auto cos = random_values<float>(5 * half), sin = random_values<float>(5 * half),
             norm = random_values<float>(head_dim);
  kernels.qk_norm_rope({qkv.data(), width, tokens, heads, kv_heads, head_dim, positions.data(), cos.data(), sin.data(),
                        norm.data(), norm.data(), 1e-6f},
                       2);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads + 2 * kv_heads; ++h) {
      const int64_t at = t * width + h * head_dim;
      double squares = 0;
      for (int64_t i = 0; i < head_dim; ++i) squares += std::pow(widen(before[size_t(at + i)]), 2);
      const double scale = 1 / std::sqrt(squares / double(head_dim) + 1e-6);
      for (int64_t i = 0; i < half; ++i) {
        double a = widen(before[size_t(at + i)]), b = widen(before[size_t(at + half + i)]);
        if (h < heads + kv_heads) {
          a *= scale * norm[size_t(i)], b *= scale * norm[size_t(half + i)];
          const double c = cos[size_t(positions[size_t(t)] * half + i)],
                       s = sin[size_t(positions[size_t(t)] * half + i)];
          const double rotated = a * c - b * s;
          b = b * c + a * s, a = rotated;
        }
        check(std::fabs(widen(qkv[size_t(at + i)]) - a), rounding<T>() * (1 + std::fabs(a)), table.name,
              "qk_norm_rope");
        check(std::fabs(widen(qkv[size_t(at + half + i)]) - b), rounding<T>() * (1 + std::fabs(b)), table.name,
              "qk_norm_rope");
      }
    }
}

// Tiles of at most `most_tokens` tokens, one after the other.
std::vector<AttentionTile> cut_tiles(AttentionTile run, int64_t most_tokens) {
  std::vector<AttentionTile> tiles;
  for (int32_t done = 0; done < run.num_tokens; done += tiles.back().num_tokens)
    tiles.push_back({run.first_block, run.first_token + done, std::min(int32_t(most_tokens), run.num_tokens - done),
                     run.out_row + done, run.first_position + done});
  return tiles;
}
int64_t tokens_of_tile(int64_t group) { return std::max<int64_t>(1, kTileRows / group); }

// A tree of three nodes: positions [0, cut) are shared, one branch goes on to `length`, another has 9 tokens. Where a
// key block straddles the cut, each branch has a copy of its own.
template <class T>
void test_tree_attention(const Kernels& table, const TypedKernels<T>& kernels, int64_t length, int64_t cut,
                         int64_t heads, int64_t kv_heads, int64_t head_dim, float softcap, int64_t window) {
  const int64_t width = (heads + 2 * kv_heads) * head_dim, group = heads / kv_heads;
  const int64_t tokens = length + 9;
  auto qkv = random_values<T>(tokens * width);
  // The token at a position of the first or of the second branch's path, and the other way round.
  const auto token_at = [=](int64_t position, bool is_second) {
    return position < cut || !is_second ? position : length + position - cut;
  };
  std::vector<int32_t> positions, blocks, node_blocks;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(int32_t(t < length ? t : cut + t - length));
  std::vector<AttentionTile> tiles;
  const auto add_node = [&](int64_t begin, int64_t end, int64_t inherited, bool is_second) {
    const auto first = int32_t(token_at(begin, is_second));
    const AttentionTile node = {int32_t(node_blocks.size()), first, int32_t(end - begin), first, int32_t(begin)};
    for (const auto& tile : cut_tiles(node, tokens_of_tile(group))) tiles.push_back(tile);
    for (int64_t b = 0; b < inherited; ++b) node_blocks.push_back(int32_t(b));
    for (int64_t start = inherited * kKeyBlock; start < end; start += kKeyBlock) {
      node_blocks.push_back(int32_t(blocks.size() / kKeyBlock));
      for (int64_t j = start; j < start + kKeyBlock; ++j)
        blocks.push_back(j < end ? int32_t(token_at(j, is_second)) : -1);
    }
  };
  if (cut > 0) add_node(0, cut, 0, false);
  add_node(cut, length, cut / kKeyBlock, false);
  add_node(cut, cut + 9, cut / kKeyBlock, true);

  auto out = zeros<T>(tokens * heads * head_dim);
  TreeAttentionArgs<T> a{};
  a.qkv = qkv.data(), a.stride = width, a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_dim = head_dim;
  a.block_tokens = blocks.data(), a.num_blocks = int64_t(blocks.size()) / kKeyBlock, a.node_blocks = node_blocks.data();
  a.tiles = tiles.data(), a.num_tiles = int64_t(tiles.size());
  a.scale = 1 / std::sqrt(float(head_dim)), a.softcap = softcap, a.window = window;
  a.out = out.data(), a.out_stride = heads * head_dim;
  const int64_t bytes = kernels.tree_attention_workspace_bytes(a, 2);
  std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(64, size_t(bytes)), std::free);
  a.workspace = workspace.get();
  kernels.tree_attention(a, 2);

  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> p, expected(size_t(head_dim), 0.0);
      double total = 0;
      const int64_t position = positions[size_t(t)];
      const int64_t first = window && position >= window ? position - window + 1 : 0;
      const auto value = [&](int64_t token, int64_t part, int64_t i) {
        return double(widen(qkv[size_t(token * width + part * head_dim + i)]));
      };
      for (int64_t j = first; j <= position; ++j) {
        const int64_t key = token_at(j, t >= length);
        double logit = 0;
        for (int64_t i = 0; i < head_dim; ++i) logit += value(t, h, i) * value(key, heads + h / group, i);
        logit *= a.scale;
        if (softcap > 0) logit = softcap * std::tanh(logit / softcap);
        p.push_back(std::exp(logit)), total += p.back();
      }
      for (int64_t j = first; j <= position; ++j)
        for (int64_t i = 0; i < head_dim; ++i)
          expected[size_t(i)] +=
              p[size_t(j - first)] / total * value(token_at(j, t >= length), heads + kv_heads + h / group, i);
      for (int64_t i = 0; i < head_dim; ++i)
        check(std::fabs(widen(out[size_t((t * heads + h) * head_dim + i)]) - expected[size_t(i)]),
              2 * rounding<T>() * (1 + std::fabs(expected[size_t(i)])), table.name, "tree_attention");
    }

  // Each token alone, while the last of the first branch, whom no other sees, has values and a key that are NaN.
  const auto nan_key = (length - 1) * width + heads * head_dim, nan_end = length * width;
  for (int64_t i = nan_key; i < nan_end; ++i) narrow(NAN, qkv[size_t(i)]);
  const auto batch = out;
  const auto check_seen = [&](const char* what) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = t * heads * head_dim;
      if (t != length - 1)
        check_bits(&out[size_t(row)], &batch[size_t(row)], heads * head_dim, table.name, what);
      else
        for (int64_t i = row; i < row + heads * head_dim; ++i)
          check(std::isnan(widen(out[size_t(i)])) ? 0 : 1, 0, table.name, "tree_attention of NaN");
    }
  };
  kernels.tree_attention(a, 2);
  check_seen("tree_attention beside NaN");
  out = zeros<T>(tokens * heads * head_dim);
  a.out = out.data(), a.num_tiles = 1;
  for (const auto& tile : tiles)
    for (const auto& token : cut_tiles(tile, 1)) {
      a.tiles = &token;
      kernels.tree_attention(a, 2);
    }
  check_seen("tree_attention of one token");
}

// Gradients are held against central differences of plain double loops: sum(grad_y * y) is the function, and each input
// is moved by itself.
double slope(const std::function<double(double)>& f) { return (f(1e-5) - f(-1e-5)) / 2e-5; }

template <class T>
void test_rms_norm_backward(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  auto z = random_values<float>(rows * width), weight = random_values<float>(width);
  const auto grad_y = random_values<T>(rows * width);
  const auto more = random_values<float>(rows * width);
  const int64_t chunks = (rows + kWeightRows - 1) / kWeightRows;
  auto grad_z = zeros<float>(rows * width), sums = zeros<float>(chunks * width);
  kernels.rms_norm_backward(
      {z.data(), weight.data(), 1e-3f, grad_y.data(), more.data(), grad_z.data(), sums.data(), rows, width}, 2);
  // One row's share of the function, element `at` of z (or of the weight) moved by `step`.
  const auto row_of = [&](int64_t r, int64_t at, bool is_weight, double step) {
    double squares = 0, result = 0;
    const auto value = [&](int64_t i) { return z[size_t(r * width + i)] + (!is_weight && i == at ? step : 0.0); };
    for (int64_t i = 0; i < width; ++i) squares += value(i) * value(i);
    for (int64_t i = 0; i < width; ++i)
      result += value(i) / std::sqrt(squares / double(width) + 1e-3) *
                (weight[size_t(i)] + (is_weight && i == at ? step : 0.0)) * widen(grad_y[size_t(r * width + i)]);
    return result;
  };
  for (int64_t i = 0; i < width; ++i) {
    double by_weight = 0, sum = 0, size = 1;
    for (int64_t r = 0; r < rows; ++r) {
      const double expected =
          slope([&](double step) { return row_of(r, i, false, step); }) + more[size_t(r * width + i)];
      check(std::fabs(grad_z[size_t(r * width + i)] - expected), 2e-5 * (1 + std::fabs(expected)) * double(width),
            table.name, "rms_norm_backward");
      const double term = slope([&](double step) { return row_of(r, i, true, step); });
      by_weight += term, size += std::fabs(term);
    }
    for (int64_t c = 0; c < chunks; ++c) sum += sums[size_t(c * width + i)];
    check(std::fabs(sum - by_weight), 2e-6 * size, table.name, "rms_norm_backward weight");
  }
}

template <class T>
void test_glu_backward(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t width) {
  const auto gate_up = random_values<T>(rows * 2 * width, 3.0f);
  const auto grad_y = random_values<T>(rows * width);
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    auto grad = zeros<T>(rows * 2 * width);
    kernels.glu_backward({gate_up.data(), grad_y.data(), grad.data(), rows, width, activation}, 2);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) {
        const double gate = widen(gate_up[size_t(r * 2 * width + i)]),
                     up = widen(gate_up[size_t((2 * r + 1) * width + i)]), g = widen(grad_y[size_t(r * width + i)]);
        const auto act = [&](double x) { return activation == Activation::silu ? silu(x) : gelu_tanh(x); };
        const double by_gate = g * up * slope([&](double step) { return act(gate + step); }), by_up = g * act(gate);
        check(std::fabs(widen(grad[size_t(r * 2 * width + i)]) - by_gate), rounding<T>() * (2 + std::fabs(by_gate)),
              table.name, "glu_backward gate");
        check(std::fabs(widen(grad[size_t((2 * r + 1) * width + i)]) - by_up), rounding<T>() * (2 + std::fabs(by_up)),
              table.name, "glu_backward up");
      }
  }
}

// Attention's gradient is linear in grad_out, and a step of all of qkv in a random direction changes sum(grad_out *
// out) by grad_qkv times that direction. The forward, which has been tested above, gives the change. Float only: a step
// that bfloat16 can hold is too long for a derivative; there, the result must be float's to within rounding.
template <class T>
void test_tree_attention_backward(const Kernels& table, const TypedKernels<T>& kernels, int64_t tokens, int64_t heads,
                                  int64_t kv_heads, int64_t head_dim, float softcap, int64_t window) {
  const int64_t width = (heads + 2 * kv_heads) * head_dim, out_width = heads * head_dim;
  std::vector<int32_t> blocks, node_blocks;
  for (int64_t t = 0; t < (tokens + kKeyBlock - 1) / kKeyBlock * kKeyBlock; ++t)
    blocks.push_back(t < tokens ? int32_t(t) : -1);
  for (int64_t b = 0; b < int64_t(blocks.size()) / kKeyBlock; ++b) node_blocks.push_back(int32_t(b));
  const AttentionTile run = {0, 0, int32_t(tokens), 0, 0};
  const auto qkv = random_values<T>(tokens * width), grad_out = random_values<T>(tokens * out_width);
  const auto arguments = [&](const auto* data, auto* out) {
    TreeAttentionArgs<std::remove_const_t<std::remove_pointer_t<decltype(data)>>> a{};
    a.qkv = data, a.stride = width, a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_dim = head_dim;
    a.block_tokens = blocks.data(), a.num_blocks = int64_t(node_blocks.size()), a.node_blocks = node_blocks.data();
    a.scale = 1 / std::sqrt(float(head_dim)), a.softcap = softcap, a.window = window;
    a.out = out, a.out_stride = out_width;
    return a;
  };
  auto grad_qkv = zeros<T>(tokens * width);
  TreeAttentionBackwardArgs<T> b{};
  b.forward = arguments(qkv.data(), static_cast<T*>(nullptr));
  const auto rows = cut_tiles(run, kTileRows);
  b.forward.tiles = rows.data(), b.forward.num_tiles = int64_t(rows.size());
  b.num_tokens = tokens, b.grad_out = grad_out.data(), b.grad_out_stride = out_width;
  b.grad_qkv = grad_qkv.data(), b.grad_qkv_stride = width;
  const auto scratch = workspace_of(kernels.tree_attention_backward_workspace_bytes(b, 2));
  b.forward.workspace = scratch.get();
  kernels.tree_attention_backward(b, 2);

  const auto tiles = cut_tiles(run, tokens_of_tile(heads / kv_heads));
  for (int64_t part = 0; part < 3; ++part) {  // queries, keys, values
    const int64_t first = part == 0 ? 0 : heads + (part - 1) * kv_heads, count = part == 0 ? heads : kv_heads;
    auto direction = random_values<float>(tokens * width);
    double expected = 0, found = 0, size = 1;
    for (int64_t i = 0; i < tokens * width; ++i) {
      const int64_t head = i % width / head_dim;
      if (head < first || head >= first + count) direction[size_t(i)] = 0;
      const double term = double(widen(grad_qkv[size_t(i)])) * direction[size_t(i)];
      found += term, size += std::fabs(term);
    }
    for (const float sign : {1.0f, -1.0f}) {
      std::vector<float> moved;
      for (int64_t i = 0; i < tokens * width; ++i)
        moved.push_back(widen(qkv[size_t(i)]) + sign * 1e-2f * direction[size_t(i)]);
      auto out = zeros<float>(tokens * out_width);
      auto a = arguments(static_cast<const float*>(moved.data()), out.data());
      a.tiles = tiles.data(), a.num_tiles = int64_t(tiles.size());
      const auto workspace = workspace_of(table.float32.tree_attention_workspace_bytes(a, 2));
      a.workspace = workspace.get();
      table.float32.tree_attention(a, 2);
      for (int64_t i = 0; i < tokens * out_width; ++i)
        expected += sign * double(out[size_t(i)]) * widen(grad_out[size_t(i)]) / 2e-2;
    }
    check(std::fabs(found - expected), 2e-3 * size, table.name, "tree_attention_backward");
  }
}

template <class T>
void test_int8_linear(const Kernels& table, const TypedKernels<T>& kernels, int64_t rows, int64_t inputs,
                      int64_t outputs, int32_t bits, bool is_rotated = false) {
  const auto x = random_values<T>(rows * inputs);
  const auto bias = random_values<float>(outputs);
  auto weight = zeros<int8_t>(outputs * inputs);
  auto scale = zeros<float>(outputs);
  for (int8_t& value : weight) value = int8_t(int(generator() % 255) - 127);
  for (float& value : scale) value = float(1 + generator() % 7) / 500;
  auto packed = zeros<int8_t>(table.packed_int8_bytes(outputs, inputs, bits));
  table.pack_int8_linear(weight.data(), outputs, inputs, bits, packed.data(), 2);
  auto y = zeros<T>(rows * outputs);
  Int8LinearArgs<T> a{x.data(), inputs, packed.data(), scale.data(), bias.data(), y.data(), outputs,
                      rows,     inputs, outputs,       bits,         is_rotated,  nullptr};
  const auto workspace = workspace_of(kernels.int8_linear_workspace_bytes(a, 2));
  a.workspace = workspace.get();
  kernels.int8_linear(a, 2);
  const float steps = float(table.int8_steps(inputs, bits));
  auto row = zeros<float>(inputs);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < inputs; ++i) row[size_t(i)] = widen(x[size_t(r * inputs + i)]);
    for (int64_t half = is_rotated ? kHadamardBlock / 2 : 0; half; half /= 2)
      for (int64_t i = 0; i < inputs; ++i)
        if (!(i & half)) {
          const float first = row[size_t(i)], second = row[size_t(i + half)];
          row[size_t(i)] = first + second, row[size_t(i + half)] = first - second;
        }
    float size = 0;
    for (float& value : row) size = std::fmax(size, std::fabs(value *= is_rotated ? 0.125f : 1.0f));
    for (int64_t o = 0; o < outputs; ++o) {
      int64_t sum = 0;
      for (int64_t i = 0; i < inputs; ++i)
        sum += std::lrint(row[size_t(i)] * (steps / size)) * weight[size_t(o * inputs + i)];
      const double expected = double(sum) * double(size / steps) * scale[size_t(o)] + bias[size_t(o)];
      check(std::fabs(widen(y[size_t(r * outputs + o)]) - expected), rounding<T>() * (1 + std::fabs(expected)),
            table.name, "int8_linear");
    }
  }

  // Each row alone, and NaN in the first.
  const auto batch = y;
  auto with_nan = x;
  narrow(NAN, with_nan[size_t(inputs - 1)]);
  a.x = with_nan.data();
  kernels.int8_linear(a, 2);
  for (int64_t o = 0; o < outputs; ++o)
    check(std::isnan(widen(y[size_t(o)])) ? 0 : 1, 0, table.name, "int8_linear of NaN");
  check_bits(y.data() + outputs, batch.data() + outputs, (rows - 1) * outputs, table.name, "int8_linear beside NaN");
  a.num_rows = 1;
  for (int64_t r = 0; r < rows; ++r) {
    a.x = x.data() + r * inputs, a.y = y.data() + r * outputs;
    kernels.int8_linear(a, 2);
  }
  check_bits(y.data(), batch.data(), rows * outputs, table.name, "int8_linear of one row");
}

template <class T>
void test_all(const Kernels& table, const TypedKernels<T>& kernels) {
  for (const int64_t width : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 64, 97}) {
    test_rms_norm(table, kernels, 3, width);
    test_glu(table, kernels, 3, width);
    test_log_sum_exp(table, kernels, 3, width);
    test_combine_experts(table, kernels, width);
    test_pooled_score(table, kernels, 3, width);
    test_qk_norm_rope(table, kernels, 2 * width);
  }
  test_tree_attention(table, kernels, 1, 0, 1, 1, 2, 0, 0);
  test_tree_attention(table, kernels, 130, 70, 4, 2, 34, 0, 0);
  test_tree_attention(table, kernels, 300, 64, 7, 1, 64, 0, 0);
  test_tree_attention(table, kernels, 300, 255, 2, 1, 128, 5, 40);
  test_tree_attention(table, kernels, 65, 0, 100, 1, 8, 0, 1);
  for (const int32_t bits : {8, 16}) {
    for (const int64_t width : {1, 3, 16, 31, 130}) test_int8_linear(table, kernels, 7, width, width, bits);
    test_int8_linear(table, kernels, 781, 387, 5, bits);
    test_int8_linear(table, kernels, 13, 192, 70, bits, true);
  }
  for (const int64_t width : {1, 5, 8, 17, 31}) {
    test_rms_norm_backward(table, kernels, 70, width);
    test_glu_backward(table, kernels, 3, width);
  }
  test_tree_attention_backward(table, kernels, 1, 1, 1, 2, 0, 0);
  test_tree_attention_backward(table, kernels, 130, 4, 2, 34, 0, 0);
  test_tree_attention_backward(table, kernels, 97, 3, 1, 64, 5, 40);
}

void test_pairwise_loss() {
  const std::vector<float> scores = {1, -1, 0.5f, 3};
  const std::unique_ptr<bool[]> labels(new bool[4]{true, false, true, true});
  const std::vector<int64_t> offsets = {0, 3, 4};
  std::vector<float> gradient(4, 9.0f);
  const double loss = pairwise_loss(scores.data(), labels.get(), offsets.data(), 2, nullptr, 0, gradient.data());
  const double expected = (std::log1p(std::exp(-2.0)) + std::log1p(std::exp(-1.5))) / 2;
  check(std::fabs(loss - expected), 1e-6, "", "pairwise_loss");
  check(std::fabs(gradient[0] + gradient[1] + gradient[2]) + std::fabs(gradient[3]), 1e-6, "",
        "pairwise_loss gradient");
}

}  // namespace

int main() {
  const Kernels* tables[4];
  const int count = supported_kernels(tables);
  for (int i = 0; i < count; ++i) {
    test_all(*tables[i], tables[i]->float32);
    test_all(*tables[i], tables[i]->bfloat16);
    for (const int64_t experts : {3, 16, 33, 128}) test_route(*tables[i], 5, experts, 3);
    test_route(*tables[i], 2, 1, 1);
    std::printf("%s: passed\n", tables[i]->name);
  }
  test_pairwise_loss();
  std::printf("%d checks passed\n", num_checks);
}
