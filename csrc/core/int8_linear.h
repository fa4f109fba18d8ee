// Linear layers with 8-bit weights: y = x_scale * w_scale * (q W^T) + bias, q being x, or x H with H the block-diagonal
// Hadamard matrix, in whole steps of its row's size.
// Included by isa_*.cpp only, inside the anonymous namespace, after tree_attention.h.
//
// Rows are Hadamard-transformed and quantised while they are packed, so memory is read once, and scaled while sums are
// written, so no integer leaves the caches. Products are summed in 32 bits, exactly, on every instruction set: order,
// blocks and threads cannot show.
//
// The unit is a 32-bit *lane* of `Group` inputs: two of 16 bits for "multiply pairs and add", or with VNNI four of 8
// bits, which is twice as fast and leaves activations 127 steps. Weights are kept in 8 bits, in strips of kColumns
// outputs; for 16-bit lanes they are widened a block at a time, once for many rows. Without VNNI 8-bit activations take
// 16-bit lanes too: AVX2's product of 8-bit numbers, vpmaddubsw, adds pairs in 16 bits and saturates. Arm's I8MM takes
// eight of 8 bits, in lanes of 64 bits.

#if CODESCALER_AVX512
// Not __m512i, whose 64-bit lanes GCC 12 would not keep in registers across these instructions.
typedef int32_t Int32x16 __attribute__((vector_size(64)));
struct Lanes {
  Int32x16 v;
};
inline Lanes set_lanes(int32_t x) { return {(Int32x16)_mm512_set1_epi32(x)}; }
inline Lanes load_lanes(const void* p) { return {(Int32x16)_mm512_loadu_si512(p)}; }
inline void store_lanes(int32_t* p, Lanes x) { _mm512_storeu_si512(p, (__m512i)x.v); }
inline Vec to_float(Lanes x) { return {_mm512_cvtepi32_ps((__m512i)x.v)}; }
inline Lanes to_integer(Vec x) { return {(Int32x16)_mm512_cvtps_epi32(x.v)}; }
template <int64_t Group>
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
#if CODESCALER_ISA == 3
  if constexpr (Group == 4) return {(Int32x16)_mm512_dpbusd_epi32((__m512i)sum.v, (__m512i)a.v, (__m512i)b.v)};
  return {(Int32x16)_mm512_dpwssd_epi32((__m512i)sum.v, (__m512i)a.v, (__m512i)b.v)};
#else
  return {sum.v + (Int32x16)_mm512_madd_epi16((__m512i)a.v, (__m512i)b.v)};
#endif
}
#elif CODESCALER_ISA == 1
struct Lanes {
  __m256i v;
};
inline Lanes set_lanes(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Lanes load_lanes(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
inline void store_lanes(int32_t* p, Lanes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v); }
inline Vec to_float(Lanes x) { return {_mm256_cvtepi32_ps(x.v)}; }
inline Lanes to_integer(Vec x) { return {_mm256_cvtps_epi32(x.v)}; }
template <int64_t Group>
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
#elif CODESCALER_NEON
struct Lanes {
  int32x4_t v;
};
inline Lanes set_lanes(int32_t x) { return {vdupq_n_s32(x)}; }
inline Lanes load_lanes(const void* p) { return {vld1q_s32(static_cast<const int32_t*>(p))}; }
inline void store_lanes(int32_t* p, Lanes x) { vst1q_s32(p, x.v); }
inline Vec to_float(Lanes x) { return {vcvtq_f32_s32(x.v)}; }
inline Lanes to_integer(Vec x) { return {vcvtnq_s32_f32(x.v)}; }
template <int64_t Group>
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {  // `b` has the first inputs of four lanes, then the second
  const int16x8_t pair = vreinterpretq_s16_s32(a.v), weights = vreinterpretq_s16_s32(b.v);
  return {vmlal_high_laneq_s16(vmlal_laneq_s16(sum.v, vget_low_s16(weights), pair, 0), weights, pair, 1)};
}
#else
struct Lanes {
  Int4 v;
};
inline Lanes set_lanes(int32_t x) { return {Int4{x, x, x, x}}; }
inline Lanes load_lanes(const void* p) {
  Lanes x;
  memcpy(&x.v, p, sizeof x.v);
  return x;
}
inline void store_lanes(int32_t* p, Lanes x) { memcpy(p, &x.v, sizeof x.v); }
inline Vec to_float(Lanes x) { return {__builtin_convertvector(x.v, Float4)}; }
inline Lanes to_integer(Vec x) { return {__builtin_convertvector(round(x).v, Int4)}; }
template <int64_t Group>
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {  // high and low halves of a lane
  const auto low = [](Int4 v) { return Int4((UInt4)v << 16) >> 16; };
  return {sum.v + (a.v >> 16) * (b.v >> 16) + low(a.v) * low(b.v)};
}
#endif

// An input as a lane holds it. vpdpbusd takes 8-bit ones unsigned, so they are `kZero` higher and sums start lower.
template <int64_t Group>
struct LaneInput {
  using Type = int16_t;
  using Lane = int32_t;
  static constexpr int32_t kZero = 0;
};
template <>
struct LaneInput<4> {
  using Type = uint8_t;
  using Lane = int32_t;
  static constexpr int32_t kZero = 128;
};
template <>
struct LaneInput<8> {
  using Type = int8_t;
  using Lane = int64_t;
  static constexpr int32_t kZero = 0;
};

#if CODESCALER_AVX512
inline void store_inputs(int16_t* p, Lanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)x.v));
}
inline void store_inputs(uint8_t* p, Lanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)(x.v + LaneInput<4>::kZero)));
}
#elif CODESCALER_NEON
inline void store_inputs(int16_t* p, Lanes x) { vst1_s16(p, vmovn_s32(x.v)); }
inline void store_inputs(int8_t* p, Lanes x) {
  const int16x4_t narrow = vmovn_s32(x.v);
  int8_t lanes[8];
  vst1_s8(lanes, vmovn_s16(vcombine_s16(narrow, narrow)));
  memcpy(p, lanes, 4);
}
#else
inline void store_inputs(int16_t* p, Lanes x) {
  int32_t lanes[Vec::width];
  store_lanes(lanes, x);
  for (int64_t i = 0; i < Vec::width; ++i) p[i] = int16_t(lanes[i]);
}
#endif

// Lanes `Apart` from each other, exchanged.
template <int64_t Apart>
inline Vec swapped(Vec x) {
#if CODESCALER_AVX512
  return {Apart == 8   ? _mm512_shuffle_f32x4(x.v, x.v, 0x4e)
          : Apart == 4 ? _mm512_shuffle_f32x4(x.v, x.v, 0xb1)
          : Apart == 2 ? _mm512_permute_ps(x.v, 0x4e)
                       : _mm512_permute_ps(x.v, 0xb1)};
#elif CODESCALER_ISA == 1
  return {Apart == 4   ? _mm256_permute2f128_ps(x.v, x.v, 1)
          : Apart == 2 ? _mm256_permute_ps(x.v, 0x4e)
                       : _mm256_permute_ps(x.v, 0xb1)};
#elif CODESCALER_NEON
  return {Apart == 2 ? vextq_f32(x.v, x.v, 2) : vrev64q_f32(x.v)};
#else
  constexpr int kFirst = Apart == 2 ? 2 : 1;
  return {Float4{x.v[kFirst], x.v[kFirst ^ 1], x.v[kFirst ^ 2], x.v[kFirst ^ 3]}};
#endif
}

// Such lanes become their sum and difference. A product with 1 or -1 is exact, so fma rounds as + and - do.
template <int64_t Apart>
inline Vec butterfly(Vec x) {
  constexpr float kSigns[4][16] = {{1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
                                   {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
                                   {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
                                   {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};
  return fma(x, load(kSigns[Apart == 1 ? 0 : Apart == 2 ? 1 : Apart == 4 ? 2 : 3]), swapped<Apart>(x));
}
template <int64_t Apart>
inline Vec butterflies(Vec x) {
  if constexpr (Apart > 0) return butterflies<Apart / 2>(butterfly<Apart>(x));
  return x;
}

// A row times the orthogonal Hadamard matrix, kHadamardBlock at a time; sums in reference.py's order.
template <class T>
inline void apply_hadamard(const T* x, int64_t width, float* y) {
  constexpr int64_t kVectors = kHadamardBlock / Vec::width;
  const Vec scale = set1(0.125f);
  static_assert(kHadamardBlock * 0.125f * 0.125f == 1.0f, "the matrix is orthogonal");
  for (int64_t i = 0; i < width; i += kHadamardBlock) {
    Vec v[kVectors];
    for (int64_t k = 0; k < kVectors; ++k) v[k] = load(x + i + k * Vec::width);
    for (int64_t apart = kVectors / 2; apart; apart /= 2)
      for (int64_t k = 0; k < kVectors; ++k)
        if (!(k & apart)) {
          const Vec first = v[k], second = v[k + apart];
          v[k] = first + second, v[k + apart] = first - second;
        }
    for (int64_t k = 0; k < kVectors; ++k) store(y + i + k * Vec::width, butterflies<Vec::width / 2>(v[k]) * scale);
  }
}

constexpr int64_t kBlockRows = 32 * kRowsAtOnce;  // rows that a widened block of weights serves
constexpr int64_t kChunkRows = 4 * kBlockRows;    // rows that are packed before they are multiplied
constexpr int64_t kDepth = 192;                   // lanes of a block: 12 KB of weights on AVX2, 48 on AVX-512

// Inputs of a lane for activations of 8 bits, and of 8 or 16.
constexpr int64_t kByteGroup = CODESCALER_ISA == 3 ? 4 : CODESCALER_ISA == 5 ? 8 : 2;
constexpr int64_t group_of(int32_t activation_bits) { return activation_bits == 8 ? kByteGroup : 2; }

inline int64_t lanes_of(int64_t num_inputs, int64_t group) { return (num_inputs + group - 1) / group; }
inline int64_t strips_of(int64_t num_outputs) { return (num_outputs + kColumns - 1) / kColumns; }

// A strip: where the sums of its columns start, then lanes of all its columns, input after input. Absent columns and
// inputs are 0.
inline int64_t strip_bytes(int64_t num_inputs, int64_t group) {
  return kColumns * (int64_t(sizeof(int32_t)) + lanes_of(num_inputs, group) * group);
}

int64_t packed_int8_bytes(int64_t num_outputs, int64_t num_inputs, int32_t activation_bits) {
  return strips_of(num_outputs) * strip_bytes(num_inputs, group_of(activation_bits));
}

void pack_int8_linear(const int8_t* weight, int64_t num_outputs, int64_t num_inputs, int32_t activation_bits,
                      int8_t* packed, int num_threads) {
  const int64_t group = group_of(activation_bits), size = lanes_of(num_inputs, group) * group;
  const int32_t zero = activation_bits == 8 ? LaneInput<kByteGroup>::kZero : LaneInput<2>::kZero;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t strip = 0; strip < strips_of(num_outputs); ++strip)
    for (int64_t column = 0; column < kColumns; ++column) {
      const int64_t output = strip * kColumns + column;
      const int8_t* row = weight + output * num_inputs;
      int8_t* starts = packed + strip * strip_bytes(num_inputs, group);
      int8_t* lane = starts + kColumns * int64_t(sizeof(int32_t)) + column * group;
      int32_t start = 0;
      for (int64_t i = 0; i < size; ++i) {
        const int8_t value = output < num_outputs && i < num_inputs ? row[i] : int8_t(0);
        lane[i / group * kColumns * group + i % group] = value;
        start -= zero * value;
      }
      memcpy(starts + column * int64_t(sizeof start), &start, sizeof start);
    }
}

// Steps from 0 to a row's largest size: what 8 bits hold; or what 16 bits hold and exact sums in 32 bits allow.
int32_t int8_steps(int64_t num_inputs, int32_t activation_bits) {
  if (activation_bits == 8) return INT8_MAX;
  const int64_t most = INT32_MAX / (128 * (num_inputs < 1 ? 1 : num_inputs));  // 128: an untrusted -128
  return int32_t(most < INT16_MAX ? most : INT16_MAX);
}

constexpr float kLeast = 0x1p-100f;  // a row of smaller numbers counts as zeros: steps / x would overflow

// Quantises a row into its place in a panel, lane after lane kRowsAtOnce apart, and returns its scale: the largest
// size / steps, or NaN if a value is not finite, which an integer could not say. `inputs` holds whole lanes and
// vectors.
template <int64_t Group, class T>
inline float quantize_row(const T* x, int64_t width, float steps, typename LaneInput<Group>::Type* inputs,
                          typename LaneInput<Group>::Lane* panel) {
  Vec size = set1(0.0f), probe = set1(0.0f);
  const auto look = [&](Vec v) {
    size = max(size, max(v, set1(0.0f) - v));
    probe = fma(v, set1(0.0f), probe);  // 0, or NaN
  };
  for_lanes(width, [&](int64_t i) { look(load(x + i)); }, [&](int64_t i, int64_t n) { look(load_n(x + i, n)); });
  const float amax = largest(size), not_finite = sum(probe);
  const bool is_zero = !(amax >= kLeast) || not_finite != 0.0f;
  const Vec inverse = set1(is_zero ? 0.0f : steps / amax);
  const auto convert_to = [&](int64_t i, Vec v) { store_inputs(inputs + i, to_integer(v * inverse)); };
  if (not_finite == 0.0f)
    for_lanes(
        width, [&](int64_t i) { convert_to(i, load(x + i)); },
        [&](int64_t i, int64_t n) { convert_to(i, load_n(x + i, n)); });
  for (int64_t i = not_finite == 0.0f ? width : 0; i < round_up(width, Group); ++i) inputs[i] = 0;
  for (int64_t lane = 0; lane < lanes_of(width, Group); ++lane)
    memcpy(panel + lane * kRowsAtOnce, inputs + lane * Group, sizeof *panel);
  return not_finite != 0.0f ? not_finite : is_zero ? 1.0f : amax / steps;
}

// c += a b for kRowsAtOnce x kColumns sums over `depth` lanes.
template <int64_t Group>
inline void integer_tile(const typename LaneInput<Group>::Lane* a, const void* b, int64_t depth, int32_t* c) {
  if constexpr (Group == 8) {
    matrix_kernel<kRowsAtOnce>(reinterpret_cast<const int8_t*>(a), Group, kRowsAtOnce * Group,
                               static_cast<const int8_t*>(b), kColumns * Group, depth, c, kColumns, true);
    return;
  }
  const int32_t* weights = static_cast<const int32_t*>(b);
  Lanes sum[kRowsAtOnce][kColumnVectors];
  for (int64_t m = 0; m < kRowsAtOnce; ++m)
    for (int64_t v = 0; v < kColumnVectors; ++v) sum[m][v] = load_lanes(c + m * kColumns + v * Vec::width);
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t m = 0; m < kRowsAtOnce; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v)
        sum[m][v] = multiply_add<Group>(set_lanes(a[k * kRowsAtOnce + m]),
                                        load_lanes(weights + k * kColumns + v * Vec::width), sum[m][v]);
  for (int64_t m = 0; m < kRowsAtOnce; ++m)
    for (int64_t v = 0; v < kColumnVectors; ++v) store_lanes(c + m * kColumns + v * Vec::width, sum[m][v]);
}

template <class T, int64_t Group>
class Int8Linear {
  using Input = typename LaneInput<Group>::Type;
  using Lane = typename LaneInput<Group>::Lane;

 public:
  Int8Linear(const Int8LinearArgs<T>& args, int num_threads)
      : a_(args),
        num_lanes_(lanes_of(args.num_inputs, Group)),
        num_strips_(strips_of(args.num_outputs)),
        steps_(float(int8_steps(args.num_inputs, args.activation_bits))) {
    Arena arena(args.workspace);
    const int64_t rows = args.num_rows < kChunkRows ? round_up(args.num_rows, kRowsAtOnce) : kChunkRows;
    panels_ = arena.allocate<Lane>(rows * num_lanes_);
    scales_ = arena.allocate<float>(rows);
    inputs_ = arena.allocate<Input>(num_threads * inputs_size());
    transformed_ = arena.allocate<float>(args.is_rotated ? num_threads * inputs_size() : 0);
    sums_ = arena.allocate<int32_t>(num_threads * kBlockRows * kColumns);
    wide_ = arena.allocate<int16_t>(num_threads * kWideSize);
    workspace_bytes = arena.used();
  }

  int64_t workspace_bytes;

  // The calling thread's part of it all.
  void run() const {
    for (int64_t first = 0; first < a_.num_rows; first += kChunkRows) {
      const int64_t rows = a_.num_rows - first < kChunkRows ? a_.num_rows - first : kChunkRows;
      const int64_t num_tasks = (rows + kBlockRows - 1) / kBlockRows * num_strips_;
#pragma omp for schedule(static)
      for (int64_t row = 0; row < round_up(rows, kRowsAtOnce); ++row) pack(first, row, rows);
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < num_tasks; ++task)
        multiply(first, task / num_strips_ * kBlockRows, rows, task % num_strips_);
    }
  }

 private:
  static constexpr int64_t kWideSize = Group == 2 ? kDepth * kColumns * Group : 0;

  int64_t inputs_size() const { return round_up(a_.num_inputs + Vec::width, 64); }

  void pack(int64_t first, int64_t row, int64_t rows) const {
    Lane* panel = panels_ + row / kRowsAtOnce * kRowsAtOnce * num_lanes_ + row % kRowsAtOnce;
    Input* inputs = inputs_ + omp_get_thread_num() * inputs_size();
    if (row >= rows) {
      for (int64_t lane = 0; lane < num_lanes_; ++lane) panel[lane * kRowsAtOnce] = 0;
      return;
    }
    const T* x = a_.x + (first + row) * a_.x_stride;
    if (a_.is_rotated) {
      float* transformed = transformed_ + omp_get_thread_num() * inputs_size();
      apply_hadamard(x, a_.num_inputs, transformed);
      scales_[row] = quantize_row<Group>(transformed, a_.num_inputs, steps_, inputs, panel);
    } else {
      scales_[row] = quantize_row<Group>(x, a_.num_inputs, steps_, inputs, panel);
    }
  }

  // One strip of outputs for the rows of a chunk from `begin`, at most kBlockRows.
  void multiply(int64_t first, int64_t begin, int64_t rows, int64_t strip) const {
    const int64_t count = rows - begin < kBlockRows ? rows - begin : kBlockRows;
    int32_t* sums = sums_ + omp_get_thread_num() * kBlockRows * kColumns;
    const int8_t* starts = a_.weight + strip * strip_bytes(a_.num_inputs, Group);
    const int8_t* lanes = starts + kColumns * int64_t(sizeof *sums);
    for (int64_t row = 0; row < round_up(count, kRowsAtOnce); ++row)
      memcpy(sums + row * kColumns, starts, kColumns * sizeof *sums);
    for (int64_t lane = 0; lane < num_lanes_; lane += kDepth) {
      const int64_t depth = num_lanes_ - lane < kDepth ? num_lanes_ - lane : kDepth;
      const void* weights = widened(lanes + lane * kColumns * Group, depth);
      for (int64_t row = 0; row < count; row += kRowsAtOnce)
        integer_tile<Group>(panels_ + (begin + row) * num_lanes_ + lane * kRowsAtOnce, weights, depth,
                            sums + row * kColumns);
    }
    const int64_t column = strip * kColumns;
    const int64_t width = a_.num_outputs - column < kColumns ? a_.num_outputs - column : kColumns;
    for (int64_t row = 0; row < count; ++row)
      scale_sums(sums + row * kColumns, scales_[begin + row], column,
                 a_.y + (first + begin + row) * a_.y_stride + column, width);
  }

  // A block of weights as inputs are: 8-bit ones stay where they are.
  const void* widened(const int8_t* lanes, int64_t depth) const {
    if (Group != 2) return lanes;
    int16_t* wide = wide_ + omp_get_thread_num() * kWideSize;
#if CODESCALER_NEON
    for (int64_t i = 0; i < depth * kColumns * 2; i += 2 * Vec::width)  // multiply_add says in which order
      for (int64_t column = 0; column < Vec::width; ++column) {
        wide[i + column] = lanes[i + 2 * column];
        wide[i + Vec::width + column] = lanes[i + 2 * column + 1];
      }
#else
    for (int64_t i = 0; i < depth * kColumns * Group; ++i) wide[i] = lanes[i];
#endif
    return wide;
  }

  void scale_sums(const int32_t* sums, float row_scale, int64_t column, T* y, int64_t width) const {
    const auto scaled = [&](int64_t i, auto get) {
      const Vec product = to_float(load_lanes(sums + i)) * set1(row_scale) * get(a_.scale + column + i);
      return a_.bias ? product + get(a_.bias + column + i) : product;
    };
    for_lanes(
        width, [&](int64_t i) { store(y + i, scaled(i, [](const float* p) { return load(p); })); },
        [&](int64_t i, int64_t n) { store_n(y + i, scaled(i, [n](const float* p) { return load_n(p, n); }), n); });
  }

  const Int8LinearArgs<T>& a_;
  int64_t num_lanes_, num_strips_;
  float steps_;
  Lane* panels_;        // [panels of a chunk][lanes][kRowsAtOnce]
  float* scales_;       // [rows of a chunk]
  Input* inputs_;       // of each thread: one row
  float* transformed_;  // of each thread: one row
  int32_t* sums_;       // of each thread: [kBlockRows][kColumns]
  int16_t* wide_;       // of each thread: [kDepth][kColumns][Group]
};

// Calls act with the linear layer in the lanes that its activations take.
template <class T, class Act>
inline void with_int8_linear(const Int8LinearArgs<T>& a, int num_threads, Act act) {
  if constexpr (kByteGroup != 2)
    if (a.activation_bits == 8) return act(Int8Linear<T, kByteGroup>(a, num_threads));
  act(Int8Linear<T, 2>(a, num_threads));
}

template <class T>
int64_t int8_linear_workspace_bytes(const Int8LinearArgs<T>& a, int num_threads) {
  int64_t result = 0;
  with_int8_linear(a, num_threads, [&](const auto& linear) { result = linear.workspace_bytes; });
  return result;
}

template <class T>
void int8_linear(const Int8LinearArgs<T>& a, int num_threads) {
  with_int8_linear(a, num_threads, [&](const auto& linear) {
#pragma omp parallel num_threads(num_threads)
    linear.run();
  });
}
