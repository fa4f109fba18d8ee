// The gradient of tree_attention.h. Included by isa_*.cpp only, inside the anonymous namespace, after it.
//
// With O = P V, P = softmax(c(S)) and S = scale * Q K^T, c the soft-cap:
//     grad_V = P^T grad_O,  grad_P = grad_O V^T,  grad_S = P * (grad_P - row sums of P * grad_P) * c'(S),
//     grad_Q = scale * grad_S K,  grad_K = scale * grad_S^T Q.
//
// All arithmetic is float. P and grad_S of a tile's rows over their whole path are kept, so that each of the five
// products runs once and the row sums cancel as exactly as they can. A query head is one task: it sums its gradients of
// keys and values by itself, tile after tile, and the heads of a group are added up at the end; so neither threads nor
// their timing show in the result.

template <class T>
class TreeAttentionBackward {
 public:
  TreeAttentionBackward(const TreeAttentionBackwardArgs<T>& args, int num_threads)
      : a_(args), f_(args.forward), group_(f_.num_heads / f_.num_kv_heads), columns_(round_up(f_.head_dim, kColumns)) {
    for (int64_t t = 0; t < f_.num_tiles; ++t) {
      const int64_t end = int64_t(f_.tiles[t].first_position) + f_.tiles[t].num_tokens;
      path_ = round_up(end, kKeyBlock) > path_ ? round_up(end, kKeyBlock) : path_;
    }
    Arena arena(f_.workspace);
    const int64_t num_packed = f_.num_kv_heads * f_.num_blocks;
    keys_ = arena.allocate<float>(num_packed * kKeyBlock * columns_);
    keys_transposed_ = arena.allocate<float>(num_packed * kKeyBlock * f_.head_dim);
    values_transposed_ = arena.allocate<float>(num_packed * kKeyBlock * f_.head_dim);
    sums_ = arena.allocate<float>(f_.num_heads * a_.num_tokens * 2 * f_.head_dim);
    Arena counter(nullptr);
    Scratch(*this, counter);
    scratch_bytes_ = counter.used();
    scratch_ = arena.allocate<std::byte>(num_threads * scratch_bytes_);
    workspace_bytes_ = arena.used();
  }

  int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(int num_threads) const {
    const int64_t num_packed = f_.num_kv_heads * f_.num_blocks;
#pragma omp parallel num_threads(num_threads)
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < num_packed; ++i) pack(i / f_.num_blocks, i % f_.num_blocks);
      Arena arena(scratch_ + omp_get_thread_num() * scratch_bytes_);
      const Scratch scratch(*this, arena);
#pragma omp for schedule(dynamic, 1)
      for (int64_t head = 0; head < f_.num_heads; ++head) {
        memset(sums_of(head, 0), 0, size_t(a_.num_tokens * 2 * f_.head_dim) * sizeof(float));
        for (int64_t t = 0; t < f_.num_tiles; ++t) process_tile(head, f_.tiles[t], scratch);
      }
#pragma omp for schedule(static)
      for (int64_t token = 0; token < a_.num_tokens; ++token) add_up(token);
    }
  }

 private:
  // One thread's buffers for one tile: rows of its queries, and a block's gradients.
  struct Scratch {
    float *queries, *grad_out, *grad_queries, *weights, *grad_logits, *slopes, *grad_keys, *grad_values;

    Scratch(const TreeAttentionBackward& owner, Arena& arena)
        : queries(arena.allocate<float>(kTileRows * owner.columns_)),
          grad_out(arena.allocate<float>(kTileRows * owner.columns_)),
          grad_queries(arena.allocate<float>(kTileRows * owner.columns_)),
          weights(arena.allocate<float>(kTileRows * owner.path_)),
          grad_logits(arena.allocate<float>(kTileRows * owner.path_)),
          slopes(arena.allocate<float>(owner.path_)),
          grad_keys(arena.allocate<float>(kKeyBlock * owner.columns_)),
          grad_values(arena.allocate<float>(kKeyBlock * owner.columns_)) {}
  };

  // Where a query head gathers the gradients of a token's key, and behind it of its value.
  float* sums_of(int64_t head, int64_t token) const { return sums_ + (head * a_.num_tokens + token) * 2 * f_.head_dim; }

  // A block's keys as they are, [kKeyBlock][columns_], and keys and values transposed, [head_dim][kKeyBlock].
  void pack(int64_t kv_head, int64_t block) const {
    const int64_t at = kv_head * f_.num_blocks + block, head_dim = f_.head_dim;
    float* keys = keys_ + at * kKeyBlock * columns_;
    float *keys_transposed = keys_transposed_ + at * kKeyBlock * head_dim,
          *values_transposed = values_transposed_ + at * kKeyBlock * head_dim;
    memset(keys, 0, size_t(kKeyBlock * columns_) * sizeof(float));
    memset(keys_transposed, 0, size_t(kKeyBlock * head_dim) * sizeof(float));
    memset(values_transposed, 0, size_t(kKeyBlock * head_dim) * sizeof(float));
    const int32_t* tokens = f_.block_tokens + block * kKeyBlock;
    for (int64_t j = 0; j < kKeyBlock && tokens[j] >= 0; ++j) {
      const T* key = f_.qkv + tokens[j] * f_.stride + (f_.num_heads + kv_head) * head_dim;
      const T* value = key + f_.num_kv_heads * head_dim;
      for (int64_t h = 0; h < head_dim; ++h) {
        keys[j * columns_ + h] = keys_transposed[h * kKeyBlock + j] = convert(key[h], 0.0f);
        values_transposed[h * kKeyBlock + j] = convert(value[h], 0.0f);
      }
    }
  }

  void process_tile(int64_t head, const AttentionTile& tile, const Scratch& s) const {
    const int64_t rows = tile.num_tokens, position = tile.first_position, head_dim = f_.head_dim;
    const int32_t* blocks = f_.node_blocks + tile.first_block;
    const int64_t first_block = f_.window && position >= f_.window ? (position - f_.window + 1) / kKeyBlock : 0;
    const int64_t end_block = (position + rows + kKeyBlock - 1) / kKeyBlock;
    load_rows(head, tile, s);
    for (int64_t b = first_block; b < end_block; ++b) {
      const int64_t from = first_row(b, position), at = packed(head, blocks[b]) * kKeyBlock * head_dim;
      multiply_rows(from, rows, s.queries, columns_, head_dim, keys_transposed_ + at, kKeyBlock,
                    s.weights + b * kKeyBlock, path_, false);
      multiply_rows(from, rows, s.grad_out, columns_, head_dim, values_transposed_ + at, kKeyBlock,
                    s.grad_logits + b * kKeyBlock, path_, false);
    }
    for (int64_t r = 0; r < rows; ++r)
      softmax_row(s.weights + r * path_, s.grad_logits + r * path_, s.slopes, position + r, first_block * kKeyBlock);

    memset(s.grad_queries, 0, size_t(rows * columns_) * sizeof(float));
    for (int64_t b = first_block; b < end_block; ++b) {
      const int64_t from = first_row(b, position);
      const float *weights = s.weights + b * kKeyBlock, *grad_logits = s.grad_logits + b * kKeyBlock;
      multiply_rows(from, rows, grad_logits, path_, kKeyBlock, keys_ + packed(head, blocks[b]) * kKeyBlock * columns_,
                    columns_, s.grad_queries, columns_, true);
      multiply_transposed(rows - from, weights + from * path_, s.grad_out + from * columns_, s.grad_values);
      multiply_transposed(rows - from, grad_logits + from * path_, s.queries + from * columns_, s.grad_keys);
      const int32_t* tokens = f_.block_tokens + blocks[b] * kKeyBlock;
      for (int64_t j = 0; j < kKeyBlock && tokens[j] >= 0; ++j) {
        add_to(sums_of(head, tokens[j]), s.grad_keys + j * columns_);
        add_to(sums_of(head, tokens[j]) + head_dim, s.grad_values + j * columns_);
      }
    }
    for (int64_t r = 0; r < rows; ++r)
      copy_row(s.grad_queries + r * columns_,
               a_.grad_qkv + (tile.first_token + r) * a_.grad_qkv_stride + head * head_dim);
  }

  int64_t packed(int64_t head, int64_t block) const { return head / group_ * f_.num_blocks + block; }

  // The first of a tile's rows that sees anything of a block: no row before the block's own positions does.
  static int64_t first_row(int64_t block, int64_t position) {
    return block * kKeyBlock > position ? block * kKeyBlock - position : 0;
  }

  // Queries and gradients of the outputs as float.
  void load_rows(int64_t head, const AttentionTile& tile, const Scratch& s) const {
    for (int64_t r = 0; r < tile.num_tokens; ++r) {
      const T* query = f_.qkv + (tile.first_token + r) * f_.stride + head * f_.head_dim;
      const T* grad = a_.grad_out + (tile.out_row + r) * a_.grad_out_stride + head * f_.head_dim;
      float *query_row = s.queries + r * columns_, *grad_row = s.grad_out + r * columns_;
      memset(query_row, 0, size_t(columns_) * sizeof(float));
      memset(grad_row, 0, size_t(columns_) * sizeof(float));
      for (int64_t h = 0; h < f_.head_dim; ++h) {
        query_row[h] = convert(query[h], 0.0f);
        grad_row[h] = convert(grad[h], 0.0f);
      }
    }
  }

  // One row from position `begin` on: products Q K^T become P, 0 where a key is not visible; grad_P becomes
  // scale * grad_S.
  void softmax_row(float* logits, float* grad, float* slopes, int64_t position, int64_t begin) const {
    const int64_t first = f_.window && position >= f_.window ? position - f_.window + 1 : 0, last = position + 1;
    const int64_t end = round_up(last, kKeyBlock);
    const bool has_softcap = f_.softcap != 0.0f;
    const Vec scale = set1(f_.scale), one = set1(1.0f), cap = set1(f_.softcap * kLog2E);
    Vec row_max = set1(-kInfinity);
    for (int64_t j = begin; j < end; j += Vec::width) {  // in units of log2, so that exp is a power of two
      Vec x = load(logits + j) * set1(f_.scale * (has_softcap ? 1.0f / f_.softcap : kLog2E));
      if (has_softcap) {
        const Vec t = tanh(x);
        store(slopes + j, scale * (one - t * t));
        x = cap * t;
      }
      if (j < first || j + Vec::width > last) x = keep_between(x, lane(first - j), lane(last - j), set1(-kInfinity));
      store(logits + j, x);
      row_max = max(row_max, x);
    }
    const Vec shift = set1(largest(row_max));
    Vec row_sum = set1(0.0f), dot = set1(0.0f);
    for (int64_t j = begin; j < end; j += Vec::width) {
      const Vec e = exp2_of_negative(load(logits + j) - shift);
      store(logits + j, e);
      row_sum = row_sum + e;
      dot = fma(e, load(grad + j), dot);
    }
    const float inverse = 1.0f / sum(row_sum);
    const Vec mean = set1(sum(dot) * inverse);
    for (int64_t j = begin; j < end; j += Vec::width) {
      const Vec p = load(logits + j) * set1(inverse);
      store(logits + j, p);
      store(grad + j, p * (load(grad + j) - mean) * (has_softcap ? load(slopes + j) : scale));
    }
  }

  // c[r][.] (+)= a[r][.] b for rows [from, rows); b is [depth][columns].
  static void multiply_rows(int64_t from, int64_t rows, const float* a, int64_t a_stride, int64_t depth, const float* b,
                            int64_t columns, float* c, int64_t c_stride, bool accumulate) {
    for (int64_t r = from; r < rows; r += kRowsAtOnce)
      multiply<float, 1>(rows - r < kRowsAtOnce ? rows - r : kRowsAtOnce, columns, a + r * a_stride, a_stride, b,
                         columns, depth, c + r * c_stride, c_stride, accumulate);
  }

  // c[j][.] = sum over rows of a[row][j] b[row][.], for the keys j of a block
  void multiply_transposed(int64_t rows, const float* a, const float* b, float* c) const {
    for (int64_t j = 0; j < kKeyBlock; j += kRowsAtOnce)
      multiply<float, 1, true>(kKeyBlock - j < kRowsAtOnce ? kKeyBlock - j : kRowsAtOnce, columns_, a + j, path_, b,
                               columns_, rows, c + j * columns_, columns_, false);
  }

  void add_to(float* sums, const float* more) const {
    for_lanes(
        f_.head_dim, [&](int64_t i) { store(sums + i, load(sums + i) + load(more + i)); },
        [&](int64_t i, int64_t n) { store_n(sums + i, load_n(sums + i, n) + load_n(more + i, n), n); });
  }

  // The gradients of a token's keys and values, summed over each group's query heads in order.
  void add_up(int64_t token) const {
    T* row = a_.grad_qkv + token * a_.grad_qkv_stride + f_.num_heads * f_.head_dim;
    for (int64_t kv_head = 0; kv_head < f_.num_kv_heads; ++kv_head) {
      float* sums = sums_of(kv_head * group_, token);
      for (int64_t g = 1; g < group_; ++g) {
        const float* more = sums_of(kv_head * group_ + g, token);
        add_to(sums, more);
        add_to(sums + f_.head_dim, more + f_.head_dim);
      }
      for (int64_t part = 0; part < 2; ++part) {
        T* out = row + (part * f_.num_kv_heads + kv_head) * f_.head_dim;
        const float* from = sums + part * f_.head_dim;
        copy_row(from, out);
      }
    }
  }

  void copy_row(const float* from, T* out) const {
    for_lanes(
        f_.head_dim, [&](int64_t i) { store(out + i, load(from + i)); },
        [&](int64_t i, int64_t n) { store_n(out + i, load_n(from + i, n), n); });
  }

  const TreeAttentionBackwardArgs<T>& a_;
  const TreeAttentionArgs<T>& f_;
  int64_t group_, columns_, path_ = 0, scratch_bytes_, workspace_bytes_;
  float *keys_, *keys_transposed_, *values_transposed_, *sums_;
  std::byte* scratch_;
};

template <class T>
int64_t tree_attention_backward_workspace_bytes(const TreeAttentionBackwardArgs<T>& args, int num_threads) {
  return TreeAttentionBackward<T>(args, num_threads).workspace_bytes();
}

template <class T>
void tree_attention_backward(const TreeAttentionBackwardArgs<T>& args, int num_threads) {
  TreeAttentionBackward<T>(args, num_threads).run(num_threads);
}
