// Attention over the packed prefix tree, flash style: keys in blocks of absolute position, online softmax.
// Included by isa_*.cpp only, inside the anonymous namespace, after simd.h.
//
// Two products per tile of query rows, S = Q K^T and O += P V, share one register kernel, "broadcast an element of
// the left, multiply by a vector of the right". An *element* is a float, or with BF16 instructions a pair of
// bfloat16 along the summed dimension. Arm's bfmmla takes four of them, of two rows and two columns. Keys and values
// are packed once per call into the layout that this wants, block by block, and every query head and every branch below
// a shared prefix reads them there.
//
// Bits: a row's arithmetic depends on its own query and on key positions alone. Rows never mix, steps start at
// multiples of kStep, and a key that is masked adds exactly 0; so tiles, trees and threads do not show.

// How operands are held for the register kernel: `Lane` elements, `kPair` of them along the summed dimension.
template <class T>
struct Operand {
  using Lane = float;
  static constexpr int64_t kPair = 1;
};
inline Vec multiply_add(const float* left, const float* right, Vec sum) { return fma(set1(*left), load(right), sum); }

#if CODESCALER_ISA == 3
template <>
struct Operand<BFloat16> {
  using Lane = BFloat16;
  static constexpr int64_t kPair = 2;
};
inline Vec multiply_add(const BFloat16* left, const BFloat16* right, Vec sum) {
  int32_t pair;
  memcpy(&pair, left, sizeof pair);
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(right))};
}
#elif CODESCALER_ISA == 5
template <>
struct Operand<BFloat16> {
  using Lane = BFloat16;
  static constexpr int64_t kPair = 4;
};
#endif

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLog2E = 0x1.715476p+0f;
constexpr int64_t kRowsAtOnce = 6;  // query rows of the register kernel
constexpr int64_t kColumnVectors =
    CODESCALER_AVX512 || CODESCALER_NEON ? 4 : 2;  // 6 x 4 sums of 32 registers, 6 x 2 of 16
constexpr int64_t kColumns = kColumnVectors * Vec::width;
constexpr int64_t kBlocksPerStep = 4;  // key blocks of one softmax step
constexpr int64_t kStep = kBlocksPerStep * kKeyBlock;
static_assert(kKeyBlock % kColumns == 0, "a key block is a whole number of micro-kernel tiles");

constexpr int64_t kCacheLine = 32;  // head elements transposed at a time: 64 bytes of bfloat16

// A position in a row, counted from a vector's first lane, as a lane of that vector.
inline int64_t lane(int64_t i) { return i < 0 ? 0 : i > Vec::width ? Vec::width : i; }

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The product below where an instruction takes blocks of two rows and two columns: matrix_neon.h explains it.
template <int64_t Rows, class Sum>
inline void matrix_kernel(const int8_t* a, int64_t a_stride, int64_t a_step, const int8_t* b, int64_t b_stride,
                          int64_t depth, Sum* c, int64_t c_stride, bool accumulate);
#if CODESCALER_ISA == 5
#include "matrix_neon.h"
#endif

// c[m][.] (+)= sum over `depth` elements of a[m][.] b[.][.], for Rows x kColumns outputs; `IsTransposed`: of a[.][m].
template <int64_t Rows, class Lane, int64_t Pair, bool IsTransposed>
inline void micro_kernel(const Lane* a, int64_t a_stride, const Lane* b, int64_t b_stride, int64_t depth, float* c,
                         int64_t c_stride, bool accumulate) {
  if constexpr (Pair == 4) {
    static_assert(!IsTransposed, "only gradients transpose, and those are float");
    matrix_kernel<Rows>(reinterpret_cast<const int8_t*>(a), a_stride * 2, 8, reinterpret_cast<const int8_t*>(b),
                        b_stride * 2, depth, c, c_stride, accumulate);
  } else {
    Vec sum[Rows][kColumnVectors];
    for (int64_t m = 0; m < Rows; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v)
        sum[m][v] = accumulate ? load(c + m * c_stride + v * Vec::width) : set1(0.0f);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t m = 0; m < Rows; ++m)
        for (int64_t v = 0; v < kColumnVectors; ++v)
          sum[m][v] = multiply_add(IsTransposed ? a + k * a_stride + m * Pair : a + m * a_stride + k * Pair,
                                   b + k * b_stride + v * Vec::width * Pair, sum[m][v]);
    for (int64_t m = 0; m < Rows; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v) store(c + m * c_stride + v * Vec::width, sum[m][v]);
  }
}

// The same for `rows` in 1..kRowsAtOnce and any multiple of kColumns columns.
template <class Lane, int64_t Pair, bool IsTransposed = false>
inline void multiply(int64_t rows, int64_t columns, const Lane* a, int64_t a_stride, const Lane* b, int64_t b_stride,
                     int64_t depth, float* c, int64_t c_stride, bool accumulate) {
  for (int64_t column = 0; column < columns; column += kColumns) {
    const Lane* right = b + column * Pair;
    float* out = c + column;
    switch (rows) {
      case 1:
        micro_kernel<1, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
        break;
      case 2:
        micro_kernel<2, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
        break;
      case 3:
        micro_kernel<3, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
        break;
      case 4:
        micro_kernel<4, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
        break;
      case 5:
        micro_kernel<5, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
        break;
      default:
        micro_kernel<6, Lane, Pair, IsTransposed>(a, a_stride, right, b_stride, depth, out, c_stride, accumulate);
    }
  }
}

inline float convert(float x, float) { return x; }
inline float convert(BFloat16 x, float) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}
inline BFloat16 convert(BFloat16 x, BFloat16) { return x; }

// The exponent bits that only NaN and infinity have, and the largest exponent bits of some values.
template <class T>
constexpr uint32_t kNonfinite = sizeof(T) == 4 ? 0x7f800000u : 0x7f80u;
inline uint32_t bits_of(BFloat16 x) { return x.bits; }
inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
template <class T>
inline uint32_t largest_exponent(const T* values, int64_t count, uint32_t result) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t exponent = bits_of(values[i]) & kNonfinite<T>;
    result = exponent > result ? exponent : result;
  }
  return result;
}

// Hands out pieces of a workspace, each aligned to 64 bytes; without a workspace it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class E>
  E* allocate(int64_t count) {
    const int64_t at = used_;
    used_ += round_up(count * int64_t(sizeof(E)), 64);
    return base_ ? reinterpret_cast<E*>(base_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

template <class T>
class TreeAttention {
  using Lane = typename Operand<T>::Lane;
  static constexpr int64_t kPair = Operand<T>::kPair;

 public:
  TreeAttention(const TreeAttentionArgs<T>& args, int num_threads)
      : a_(args),
        group_(args.num_heads / args.num_kv_heads),
        depth_(round_up(args.head_dim, kPair)),
        columns_(round_up(args.head_dim, kColumns)) {
    Arena arena(args.workspace);
    const int64_t num_packed = args.num_kv_heads * args.num_blocks;
    keys_ = arena.allocate<Lane>(num_packed * kKeyBlock * depth_);
    values_ = arena.allocate<Lane>(num_packed * kKeyBlock * columns_);
    has_nonfinite_ = arena.allocate<uint8_t>(num_packed);
    max_rows_ = group_ > kTileRows ? group_ : kTileRows;
    Arena counter(nullptr);
    Scratch(*this, counter);
    scratch_bytes_ = counter.used();
    scratch_ = arena.allocate<std::byte>(num_threads * scratch_bytes_);
    workspace_bytes_ = arena.used();
  }

  int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(int num_threads) const {
    const int64_t num_packed = a_.num_kv_heads * a_.num_blocks;
    const int64_t num_tasks = a_.num_kv_heads * a_.num_tiles;
#pragma omp parallel num_threads(num_threads)
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < num_packed; ++i) pack(i / a_.num_blocks, i % a_.num_blocks);
      Arena arena(scratch_ + omp_get_thread_num() * scratch_bytes_);
      const Scratch scratch(*this, arena);
      // One head after the other, so that its keys and values stay in cache; within a head the dearest tile first.
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < num_tasks; ++i) attend(i / a_.num_tiles, a_.tiles[i % a_.num_tiles], scratch);
    }
  }

 private:
  // One thread's buffers for one tile.
  struct Scratch {
    Lane *queries, *clean_values;
    float *logits, *sums, *row_max, *row_sum;

    Scratch(const TreeAttention& owner, Arena& arena)
        : queries(arena.allocate<Lane>(owner.max_rows_ * owner.depth_)),
          clean_values(arena.allocate<Lane>(kKeyBlock * owner.columns_)),
          logits(arena.allocate<float>(owner.max_rows_ * kStep)),
          sums(arena.allocate<float>(owner.max_rows_ * owner.columns_)),
          row_max(arena.allocate<float>(owner.max_rows_)),
          row_sum(arena.allocate<float>(owner.max_rows_)) {}
  };

  // Visible keys [first, last) of one row, counted from the start of a step.
  struct Range {
    int64_t first, last;
  };

  const Lane* keys_of(int64_t head, int64_t block) const {
    return keys_ + (head * a_.num_blocks + block) * kKeyBlock * depth_;
  }
  const Lane* values_of(int64_t head, int64_t block) const {
    return values_ + (head * a_.num_blocks + block) * kKeyBlock * columns_;
  }

  // Keys [depth_ / kPair][kKeyBlock][kPair] and values [kKeyBlock / kPair][columns_][kPair] of one block.
  void pack(int64_t head, int64_t block) const {
    Lane* keys = keys_ + (head * a_.num_blocks + block) * kKeyBlock * depth_;
    Lane* values = values_ + (head * a_.num_blocks + block) * kKeyBlock * columns_;
    const T* rows[kKeyBlock];
    int64_t count = 0;  // keys of a block stand at its start
    for (const int32_t* tokens = a_.block_tokens + block * kKeyBlock; count < kKeyBlock && tokens[count] >= 0; ++count)
      rows[count] = a_.qkv + tokens[count] * a_.stride + (a_.num_heads + head) * a_.head_dim;
    if (count < kKeyBlock || columns_ > a_.head_dim) {
      memset(keys, 0, size_t(kKeyBlock * depth_) * sizeof(Lane));
      memset(values, 0, size_t(kKeyBlock * columns_) * sizeof(Lane));
    }
    for (int64_t h = 0; h < a_.head_dim; h += kCacheLine) {
      const int64_t width = a_.head_dim - h < kCacheLine ? a_.head_dim - h : kCacheLine;
      transpose(rows, count, h, width, keys + h * kKeyBlock);
    }
    uint32_t exponents = 0;
    for (int64_t j = 0; j < count; j += kPair) {
      const T* v[kPair];
      for (int64_t p = 0; p < kPair; ++p) v[p] = rows[j + p < count ? j + p : j] + a_.num_kv_heads * a_.head_dim;
      Lane* out = values + j * columns_;
      for (int64_t h = 0; h < a_.head_dim; ++h)
        for (int64_t p = 0; p < kPair; ++p) out[h * kPair + p] = convert(v[p][h], Lane{});
      for (int64_t p = 0; p < kPair; ++p) exponents = largest_exponent(v[p], a_.head_dim, exponents);
    }
    for (int64_t j = count; j % kPair; ++j)  // what of the last element is past the end
      for (int64_t h = 0; h < a_.head_dim; ++h) values[j / kPair * kPair * columns_ + h * kPair + j % kPair] = Lane{};
    has_nonfinite_[head * a_.num_blocks + block] = exponents == kNonfinite<T>;
  }

  // Columns [h, h + width) of `count` rows, to [elements of width][kKeyBlock][kPair], by way of a buffer: rows are far
  // apart, so each of their cache lines is read once.
  static void transpose(const T* const* rows, int64_t count, int64_t h, int64_t width, Lane* out) {
    struct Element {
      Lane lanes[kPair];
    };
    Element buffer[kKeyBlock][kCacheLine / kPair];
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = 0; i < round_up(width, kPair); ++i)
        buffer[j][i / kPair].lanes[i % kPair] = i < width ? convert(rows[j][h + i], Lane{}) : Lane{};
    for (int64_t c = 0; c < round_up(width, kPair) / kPair; ++c)
      for (int64_t j = 0; j < count; ++j) memcpy(out + (c * kKeyBlock + j) * kPair, &buffer[j][c], sizeof(Element));
  }

  // Query rows of a tile are token-major: row r is token r / group_, head r % group_ of the kv head's group.
  void attend(int64_t kv_head, const AttentionTile& tile, const Scratch& s) const {
    const int64_t rows = tile.num_tokens * group_, position = tile.first_position;
    const int32_t* blocks = a_.node_blocks + tile.first_block;
    for (int64_t r = 0; r < rows; ++r) {
      const T* q = a_.qkv + (tile.first_token + r / group_) * a_.stride + (kv_head * group_ + r % group_) * a_.head_dim;
      for (int64_t h = 0; h < depth_; ++h) s.queries[r * depth_ + h] = h < a_.head_dim ? convert(q[h], Lane{}) : Lane{};
      s.row_max[r] = -kInfinity;
      s.row_sum[r] = 0.0f;
    }
    memset(s.sums, 0, size_t(rows * columns_) * sizeof(float));

    const int64_t end = position + tile.num_tokens;
    const int64_t begin = a_.window && position >= a_.window ? position - a_.window + 1 : 0;
    for (int64_t step = begin / kStep * kStep; step < end; step += kStep)
      process_keys(kv_head, blocks + step / kKeyBlock, step, position, rows, s);

    for (int64_t r = 0; r < rows; ++r) {
      T* out = a_.out + (tile.out_row + r / group_) * a_.out_stride + (kv_head * group_ + r % group_) * a_.head_dim;
      const float* sums = s.sums + r * columns_;
      const Vec inverse = set1(1.0f / s.row_sum[r]);
      for_lanes(
          a_.head_dim, [&](int64_t i) { store(out + i, load(sums + i) * inverse); },
          [&](int64_t i, int64_t n) { store_n(out + i, load_n(sums + i, n) * inverse, n); });
    }
  }

  Range visible(int64_t position, int64_t step) const {
    const auto clamp = [](int64_t key) { return key < 0 ? 0 : key > kStep ? kStep : key; };
    return {a_.window ? clamp(position + 1 - a_.window - step) : 0, clamp(position + 1 - step)};
  }

  // All rows of a tile take the keys at positions [step, step + kStep): logits, probabilities, weighted sums. The
  // products go block by block, so that a block of keys or values is in the first-level cache for all rows.
  void process_keys(int64_t kv_head, const int32_t* blocks, int64_t step, int64_t position, int64_t rows,
                    const Scratch& s) const {
    // Positions grow with the row: a group's first row sees furthest back, its last furthest ahead.
    const auto seen_by = [=](int64_t r, int64_t count) {
      return Range{visible(position + r / group_, step).first, visible(position + (r + count - 1) / group_, step).last};
    };
    const auto for_groups = [=](int64_t block, auto work) {
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
        const int64_t count = rows - r < kRowsAtOnce ? rows - r : kRowsAtOnce;
        const Range seen = seen_by(r, count);
        if (seen.first < (block + 1) * kKeyBlock && seen.last > block * kKeyBlock) work(r, count, seen.last);
      }
    };
    const Range any = seen_by(0, rows);
    const int64_t first_block = any.first / kKeyBlock, last_block = (any.last + kKeyBlock - 1) / kKeyBlock;
    for (int64_t b = first_block; b < last_block; ++b)
      for_groups(b, [&](int64_t r, int64_t count, int64_t) {
        multiply<Lane, kPair>(count, kKeyBlock, s.queries + r * depth_, depth_, keys_of(kv_head, blocks[b]),
                              kKeyBlock * kPair, depth_ / kPair, s.logits + r * kStep + b * kKeyBlock, kStep, false);
      });
    for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
      const int64_t count = rows - r < kRowsAtOnce ? rows - r : kRowsAtOnce;
      const Range seen = seen_by(r, count);
      if (seen.first >= seen.last) continue;
      const int64_t begin = seen.first / kKeyBlock * kKeyBlock, end = round_up(seen.last, kKeyBlock);
      for (int64_t m = r; m < r + count; ++m)
        online_softmax(s.logits + m * kStep, visible(position + m / group_, step), begin, end, m, s);
    }
    for (int64_t b = first_block; b < last_block; ++b)
      for_groups(b, [&](int64_t r, int64_t count, int64_t last) {
        add_values(kv_head, blocks[b], b * kKeyBlock, last, step, position, r, count, s);
      });
  }

  // Adds the values of one block, weighted, to the sums of rows [r, r + count), which see keys before `last`.
  void add_values(int64_t kv_head, int64_t block, int64_t block_start, int64_t last, int64_t step, int64_t position,
                  int64_t r, int64_t count, const Scratch& s) const {
    constexpr int64_t p_stride = kStep * int64_t(sizeof(float) / sizeof(Lane));
    const Lane* p =
        reinterpret_cast<const Lane*>(s.logits + r * kStep) + block_start;  // online_softmax wrote them there
    const Lane* values = values_of(kv_head, block);
    float* sums = s.sums + r * columns_;
    if (has_nonfinite_[kv_head * a_.num_blocks + block]) {
      for (int64_t m = 0; m < count; ++m) {
        keep_visible(values, visible(position + (r + m) / group_, step), block_start, s.clean_values);
        multiply<Lane, kPair>(1, columns_, p + m * p_stride, 0, s.clean_values, columns_ * kPair, kKeyBlock / kPair,
                              sums + m * columns_, 0, true);
      }
      return;
    }
    const int64_t keys = last - block_start < kKeyBlock ? round_up(last - block_start, kPair) : kKeyBlock;
    multiply<Lane, kPair>(count, columns_, p, p_stride, values, columns_ * kPair, keys / kPair, sums, columns_, true);
  }

  // One row's online softmax over logits [begin, end): probabilities take their place, 0 where not visible.
  void online_softmax(float* logits, Range seen, int64_t begin, int64_t end, int64_t row, const Scratch& s) const {
    const Vec nothing = set1(-kInfinity);
    const bool has_softcap = a_.softcap != 0.0f;
    // Logits in units of log2, so that exp is a power of two; a soft-cap acts on them as they are.
    const Vec scale = set1(a_.scale * (has_softcap ? 1.0f / a_.softcap : kLog2E));
    const Vec cap = set1(a_.softcap * kLog2E);
    Vec row_max = nothing;
    for (int64_t j = begin; j < end; j += Vec::width) {
      Vec x = load(logits + j) * scale;
      if (has_softcap) x = cap * tanh(x);
      if (j < seen.first || j + Vec::width > seen.last)
        x = keep_between(x, lane(seen.first - j), lane(seen.last - j), nothing);
      store(logits + j, x);
      row_max = max(row_max, x);
    }
    const float old_max = s.row_max[row], new_max = fmaxf(old_max, largest(row_max));
    s.row_max[row] = new_max;
    // While a row has seen no key the maximum is -inf, and -inf - (-inf) would be NaN.
    const Vec shift = set1(new_max == -kInfinity ? 0.0f : new_max);
    Lane* p = reinterpret_cast<Lane*>(logits);
    Vec row_sum = set1(0.0f);
    for (int64_t j = begin; j < end; j += Vec::width) {
      const Vec e = exp2_of_negative(load(logits + j) - shift);
      row_sum = row_sum + e;
      store(p + j, e);
    }
    if (old_max != new_max) {
      const Vec rescale = exp2_of_negative(set1(old_max) - shift);
      s.row_sum[row] = first_lane(set1(s.row_sum[row]) * rescale);
      float* sums = s.sums + row * columns_;
      for (int64_t i = 0; i < columns_; i += Vec::width) store(sums + i, load(sums + i) * rescale);
    }
    s.row_sum[row] += sum(row_sum);
  }

  static float first_lane(Vec x) {
    float lanes[Vec::width];
    store(lanes, x);
    return lanes[0];
  }

  // A block's values with 0 in place of the keys that are not visible: 0 * NaN would be NaN.
  void keep_visible(const Lane* values, Range seen, int64_t block_start, Lane* out) const {
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      const bool is_seen = block_start + j >= seen.first && block_start + j < seen.last;
      const int64_t at = j / kPair * columns_ * kPair + j % kPair;
      for (int64_t h = 0; h < columns_; ++h) out[at + h * kPair] = is_seen ? values[at + h * kPair] : Lane{};
    }
  }

  const TreeAttentionArgs<T>& a_;
  int64_t group_, depth_, columns_, max_rows_, scratch_bytes_, workspace_bytes_;
  Lane *keys_, *values_;
  uint8_t* has_nonfinite_;
  std::byte* scratch_;
};

template <class T>
int64_t tree_attention_workspace_bytes(const TreeAttentionArgs<T>& args, int num_threads) {
  return TreeAttention<T>(args, num_threads).workspace_bytes();
}

template <class T>
void tree_attention(const TreeAttentionArgs<T>& args, int num_threads) {
  TreeAttention<T>(args, num_threads).run(num_threads);
}
