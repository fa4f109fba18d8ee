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

// The right side of a product, in pieces along the summed dimension: each has `depth` elements, the last `last_depth`,
// `stride` lanes apart.
template <class Lane>
struct Pieces {
  const Lane* const* pieces;
  int64_t count, depth, last_depth, stride;
};

// c[m][.] (+)= sum over the elements of `b` of a[m][.] b[.][.], for Rows x kColumns outputs; `IsTransposed`: of
// a[.][m]. The sums stay in registers from the first piece to the last.
template <int64_t Rows, class Lane, int64_t Pair, bool IsTransposed>
inline void micro_kernel(const Lane* a, int64_t a_stride, const Pieces<Lane>& b, float* c, int64_t c_stride,
                         bool accumulate) {
  const auto depth_of = [&b](int64_t i) { return i + 1 < b.count ? b.depth : b.last_depth; };
  const int64_t a_step = (IsTransposed ? a_stride : Pair) * b.depth;
  if constexpr (Pair == 4) {
    static_assert(!IsTransposed, "only gradients transpose, and those are float");
    for (int64_t i = 0; i < b.count; ++i)
      matrix_kernel<Rows>(reinterpret_cast<const int8_t*>(a + i * a_step), a_stride * 2, 8,
                          reinterpret_cast<const int8_t*>(b.pieces[i]), b.stride * 2, depth_of(i), c, c_stride,
                          accumulate || i);
  } else {
    Vec sum[Rows][kColumnVectors];
    for (int64_t m = 0; m < Rows; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v)
        sum[m][v] = accumulate ? load(c + m * c_stride + v * Vec::width) : set1(0.0f);
    for (int64_t i = 0; i < b.count; ++i, a += a_step) {
      const Lane* right = b.pieces[i];
      const int64_t depth = depth_of(i);
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t m = 0; m < Rows; ++m)
          for (int64_t v = 0; v < kColumnVectors; ++v)
            sum[m][v] = multiply_add(IsTransposed ? a + k * a_stride + m * Pair : a + m * a_stride + k * Pair,
                                     right + k * b.stride + v * Vec::width * Pair, sum[m][v]);
    }
    for (int64_t m = 0; m < Rows; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v) store(c + m * c_stride + v * Vec::width, sum[m][v]);
  }
}

// The same for `rows` in 1..kRowsAtOnce.
template <class Lane, int64_t Pair, bool IsTransposed = false>
inline void multiply_pieces(int64_t rows, const Lane* a, int64_t a_stride, const Pieces<Lane>& b, float* c,
                            int64_t c_stride, bool accumulate) {
  switch (rows) {
    case 1:
      micro_kernel<1, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
      break;
    case 2:
      micro_kernel<2, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
      break;
    case 3:
      micro_kernel<3, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
      break;
    case 4:
      micro_kernel<4, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
      break;
    case 5:
      micro_kernel<5, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
      break;
    default:
      micro_kernel<6, Lane, Pair, IsTransposed>(a, a_stride, b, c, c_stride, accumulate);
  }
}

// The same for one piece and any multiple of kColumns columns.
template <class Lane, int64_t Pair, bool IsTransposed = false>
inline void multiply(int64_t rows, int64_t columns, const Lane* a, int64_t a_stride, const Lane* b, int64_t b_stride,
                     int64_t depth, float* c, int64_t c_stride, bool accumulate) {
  for (int64_t column = 0; column < columns; column += kColumns, b += kColumns * Pair)
    multiply_pieces<Lane, Pair, IsTransposed>(rows, a, a_stride, {&b, 1, depth, depth, b_stride}, c + column, c_stride,
                                              accumulate);
}

#if CODESCALER_AVX512
// Sixteen elements of a row, of 32 bits each: as they are, or floats made of bfloat16.
template <class Lane, class T>
inline __m512i load_elements(const T* row) {
  if constexpr (sizeof(T) == sizeof(Lane))
    return _mm512_loadu_si512(row);
  else
    return _mm512_castps_si512(load(row).v);
}

// Sixteen elements of sixteen rows, transposed: element i of all rows goes to out + i * stride, in bytes.
inline void transpose_16(__m512i (&x)[16], std::byte* out, int64_t stride) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; ++half) {
      x[i + 2 * half] = _mm512_unpacklo_epi64(y[i + half], y[i + 2 + half]);
      x[i + 2 * half + 1] = _mm512_unpackhi_epi64(y[i + half], y[i + 2 + half]);
    }
  // x[4 r + c] has, of rows 4 r to 4 r + 3, elements c, 4 + c, 8 + c and 12 + c, one in each quarter.
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
    _mm512_storeu_si512(out + c * stride, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(out + (4 + c) * stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_si512(out + (8 + c) * stride, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    _mm512_storeu_si512(out + (12 + c) * stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}
#endif

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
          clean_values(arena.allocate<Lane>(kKeyBlock * kColumns)),
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

  // Keys [depth_ / kPair][kKeyBlock][kPair] and values [columns_ / kColumns][kKeyBlock / kPair][kColumns][kPair] of one
  // block. A product reads the same columns of several blocks, which so are next to each other.
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
    int64_t packed = 0;  // columns of keys that are done
#if CODESCALER_AVX512
    for (; packed + 16 * kPair <= a_.head_dim; packed += 16 * kPair)
      for (int64_t j = 0; j < count; j += 16) {
        __m512i x[16];
        for (int64_t i = 0; i < 16; ++i)
          x[i] = j + i < count ? load_elements<Lane>(rows[j + i] + packed) : _mm512_setzero_si512();
        transpose_16(x, reinterpret_cast<std::byte*>(keys + packed * kKeyBlock + j * kPair), kKeyBlock * 4);
      }
#endif
    for (int64_t h = packed; h < a_.head_dim; h += kCacheLine) {
      const int64_t width = a_.head_dim - h < kCacheLine ? a_.head_dim - h : kCacheLine;
      transpose(rows, count, h, width, keys + h * kKeyBlock);
    }
    uint32_t exponents = 0;
    for (int64_t j = 0; j < count; j += kPair) {
      const T* v[kPair];
      for (int64_t p = 0; p < kPair; ++p) v[p] = rows[j + p < count ? j + p : j] + a_.num_kv_heads * a_.head_dim;
      for (int64_t first = 0; first < a_.head_dim; first += kColumns) {
        Lane* out = values + first * kKeyBlock + j * kColumns;
        const int64_t width = a_.head_dim - first < kColumns ? a_.head_dim - first : kColumns;
        int64_t done = 0;
#if CODESCALER_ISA == 3
        if constexpr (kPair == 2)
          for (; done + 16 <= width; done += 16) _mm512_storeu_si512(out + done * 2, pair(v, first + done));
#endif
        for (int64_t h = done; h < width; ++h)
          for (int64_t p = 0; p < kPair; ++p) out[h * kPair + p] = convert(v[p][first + h], Lane{});
      }
      for (int64_t p = 0; p < kPair; ++p) exponents = largest_exponent(v[p], a_.head_dim, exponents);
    }
    for (int64_t j = count; j % kPair; ++j)  // what of the last element is past the end
      for (int64_t h = 0; h < columns_; ++h) values[place_value(j, h)] = Lane{};
    has_nonfinite_[head * a_.num_blocks + block] = exponents == kNonfinite<T>;
  }

#if CODESCALER_ISA == 3
  // Sixteen columns of two rows, from column h on, the two of a column side by side.
  static __m512i pair(const T* const (&rows)[kPair], int64_t h) {
    const auto read = [h](const T* row) {
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + h)));
    };
    return _mm512_or_si512(read(rows[0]), _mm512_slli_epi32(read(rows[kPair - 1]), 16));
  }
#endif

  // Where a block of values has column h of key j.
  static int64_t place_value(int64_t j, int64_t h) {
    return h / kColumns * kColumns * kKeyBlock + j / kPair * kColumns * kPair + h % kColumns * kPair + j % kPair;
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
      Lane* query = s.queries + r * depth_;
      for (int64_t h = 0; h < a_.head_dim; ++h) query[h] = convert(q[h], Lane{});
      for (int64_t h = a_.head_dim; h < depth_; ++h) query[h] = Lane{};
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

  // All rows of a tile take the keys at positions [step, step + kStep): logits, probabilities, weighted sums. What a
  // product's right side reads, a block of keys or some columns of all blocks of values, is in the first-level cache
  // for all rows.
  void process_keys(int64_t kv_head, const int32_t* blocks, int64_t step, int64_t position, int64_t rows,
                    const Scratch& s) const {
    // Positions grow with the row: a group's first row sees furthest back, its last furthest ahead.
    const auto seen_by = [=](int64_t r, int64_t count) {
      return Range{visible(position + r / group_, step).first, visible(position + (r + count - 1) / group_, step).last};
    };
    const auto for_groups = [=](int64_t first_key, int64_t last_key, auto work) {
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
        const int64_t count = rows - r < kRowsAtOnce ? rows - r : kRowsAtOnce;
        const Range seen = seen_by(r, count);
        if (seen.first < last_key && seen.last > first_key) work(r, count, seen);
      }
    };
    const Range any = seen_by(0, rows);
    const int64_t first_block = any.first / kKeyBlock, last_block = (any.last + kKeyBlock - 1) / kKeyBlock;
    bool has_nonfinite = false;
    for (int64_t b = first_block; b < last_block; ++b) {
      has_nonfinite |= has_nonfinite_[kv_head * a_.num_blocks + blocks[b]] != 0;
      for_groups(b * kKeyBlock, (b + 1) * kKeyBlock, [&](int64_t r, int64_t count, Range) {
        multiply<Lane, kPair>(count, kKeyBlock, s.queries + r * depth_, depth_, keys_of(kv_head, blocks[b]),
                              kKeyBlock * kPair, depth_ / kPair, s.logits + r * kStep + b * kKeyBlock, kStep, false);
      });
    }
    for_groups(0, kStep, [&](int64_t r, int64_t count, Range seen) {
      const int64_t begin = seen.first / kKeyBlock * kKeyBlock, end = round_up(seen.last, kKeyBlock);
      for (int64_t m = r; m < r + count; ++m)
        online_softmax(s.logits + m * kStep, visible(position + m / group_, step), begin, end, m, s);
    });
    for (int64_t column = 0; column < columns_; column += kColumns)
      for_groups(0, kStep, [&](int64_t r, int64_t count, Range seen) {
        if (!has_nonfinite) return add_values(kv_head, blocks, column, seen, r, count, s);
        for (int64_t m = r; m < r + count; ++m)
          add_visible_values(kv_head, blocks, column, visible(position + m / group_, step), m, s);
      });
  }

  const Lane* weights_of(int64_t row, const Scratch& s) const {  // online_softmax wrote them there
    return reinterpret_cast<const Lane*>(s.logits + row * kStep);
  }
  static constexpr int64_t kWeightStride = kStep * int64_t(sizeof(float) / sizeof(Lane));

  // Adds the values of a step's blocks, weighted, to columns [column, column + kColumns) of the sums of rows
  // [r, r + count), which see keys `seen` between them.
  void add_values(int64_t kv_head, const int32_t* blocks, int64_t column, Range seen, int64_t r, int64_t count,
                  const Scratch& s) const {
    const int64_t first = seen.first / kKeyBlock, num_blocks = (seen.last + kKeyBlock - 1) / kKeyBlock - first;
    const Lane* pieces[kBlocksPerStep];
    for (int64_t i = 0; i < num_blocks; ++i) pieces[i] = values_of(kv_head, blocks[first + i]) + column * kKeyBlock;
    const int64_t last_keys = round_up(seen.last - (first + num_blocks - 1) * kKeyBlock, kPair);
    const Pieces<Lane> values{pieces, num_blocks, kKeyBlock / kPair, last_keys / kPair, kColumns * kPair};
    multiply_pieces<Lane, kPair>(count, weights_of(r, s) + first * kKeyBlock, kWeightStride, values,
                                 s.sums + r * columns_ + column, columns_, true);
  }

  // The same for one row, where a value may be NaN or infinity: those of keys that it does not see are left out.
  void add_visible_values(int64_t kv_head, const int32_t* blocks, int64_t column, Range seen, int64_t row,
                          const Scratch& s) const {
    for (int64_t b = seen.first / kKeyBlock; b * kKeyBlock < seen.last; ++b) {
      const Lane* values = values_of(kv_head, blocks[b]) + column * kKeyBlock;
      if (has_nonfinite_[kv_head * a_.num_blocks + blocks[b]]) {
        keep_visible(values, seen, b * kKeyBlock, s.clean_values);
        values = s.clean_values;
      }
      const Pieces<Lane> piece{&values, 1, 0, kKeyBlock / kPair, kColumns * kPair};
      multiply_pieces<Lane, kPair>(1, weights_of(row, s) + b * kKeyBlock, 0, piece, s.sums + row * columns_ + column, 0,
                                   true);
    }
  }

  // One row's online softmax over logits [begin, end): probabilities take their place, 0 where not visible.
  void online_softmax(float* logits, Range seen, int64_t begin, int64_t end, int64_t row, const Scratch& s) const {
    const Vec nothing = set1(-kInfinity);
    // Logits in units of log2, so that exp is a power of two. They are scaled after the maximum was taken from them; a
    // soft-cap acts on them before.
    const bool has_softcap = a_.softcap != 0.0f;
    const Vec scale = set1(has_softcap ? kLog2E * a_.softcap : kLog2E * a_.scale);
    const Vec into_cap = set1(has_softcap ? a_.scale / a_.softcap : 0.0f);
    Vec row_max = nothing;
    for (int64_t j = begin; j < end; j += Vec::width) {
      Vec x = load(logits + j);
      const bool is_cut = j < seen.first || j + Vec::width > seen.last;
      if (has_softcap) x = tanh(x * into_cap);
      if (is_cut) x = keep_between(x, lane(seen.first - j), lane(seen.last - j), nothing);
      if (has_softcap || is_cut) store(logits + j, x);
      row_max = max(row_max, x);
    }
    const float old_max = s.row_max[row], new_max = fmaxf(old_max, largest(row_max));
    s.row_max[row] = new_max;
    // While a row has seen no key the maximum is -inf, and -inf - (-inf) would be NaN.
    const Vec shift = set1(new_max == -kInfinity ? 0.0f : new_max);
    Lane* p = reinterpret_cast<Lane*>(logits);
    Vec row_sum = set1(0.0f);
    for (int64_t j = begin; j < end; j += Vec::width) {
      const Vec e = exp2_of_negative((load(logits + j) - shift) * scale);
      row_sum = row_sum + e;
      store(p + j, e);
    }
    if (old_max != new_max) {
      const Vec rescale = exp2_of_negative((set1(old_max) - shift) * scale);
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

  // kColumns columns of a block's values with 0 in place of the keys that are not visible: 0 * NaN would be NaN.
  void keep_visible(const Lane* values, Range seen, int64_t block_start, Lane* out) const {
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      const bool is_seen = block_start + j >= seen.first && block_start + j < seen.last;
      for (int64_t h = 0; h < kColumns; ++h) out[place_value(j, h)] = is_seen ? values[place_value(j, h)] : Lane{};
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
