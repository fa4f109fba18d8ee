// Linear maps with 8-bit weights: y = x_scale * w_scale * (q W^T) + bias, q being x in whole steps of its row's size.
// Included by isa_*.cpp only, inside the anonymous namespace, after tree_attention.h.
//
// Rows are quantised while they are packed, so x is read once, and scaled while sums are written, so no integer leaves
// the caches. Products are summed in 32 bits, exactly, on every instruction set: order, blocks and threads cannot show.
//
// The unit is a 32-bit *lane* of two inputs of 16 bits, for "multiply pairs and add". Weights are kept in 8 bits, in
// strips of kColumns outputs, and widened a block at a time, once for many rows. (AVX2's product of 8-bit numbers,
// vpmaddubsw, adds pairs in 16 bits and saturates; VNNI's, vpdpbusd, leaves activations 127 steps, which rankings
// feel.)

constexpr int64_t kGroup = 2;

#if CODESCALER_ISA >= 2
struct Lanes {
  __m512i v;
};
inline Lanes set_lanes(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Lanes load_lanes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_lanes(int32_t* p, Lanes x) { _mm512_storeu_si512(p, x.v); }
inline Vec to_float(Lanes x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline Lanes to_integer(Vec x) { return {_mm512_cvtps_epi32(x.v)}; }
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
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
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
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
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {  // high and low halves of a lane
  const auto low = [](Int4 v) { return Int4((UInt4)v << 16) >> 16; };
  return {sum.v + (a.v >> 16) * (b.v >> 16) + low(a.v) * low(b.v)};
}
#endif

constexpr int64_t kBlockRows = 32 * kRowsAtOnce;  // rows that a widened block of weights serves
constexpr int64_t kChunkRows = 4 * kBlockRows;    // rows that are packed before they are multiplied
constexpr int64_t kDepth = 192;                   // lanes of a block: 12 KB of weights on AVX2, beside 12 KB of sums

inline int64_t lanes_of(int64_t num_inputs) { return (num_inputs + kGroup - 1) / kGroup; }
inline int64_t strips_of(int64_t num_outputs) { return (num_outputs + kColumns - 1) / kColumns; }
inline int64_t strip_bytes(int64_t num_inputs) { return lanes_of(num_inputs) * kColumns * kGroup; }

int64_t packed_int8_bytes(int64_t num_outputs, int64_t num_inputs) {
  return strips_of(num_outputs) * strip_bytes(num_inputs);
}

// A strip: lanes of all its columns, input after input. Absent columns and inputs are 0.
void pack_int8_linear(const int8_t* weight, int64_t num_outputs, int64_t num_inputs, int8_t* packed, int num_threads) {
  const int64_t num_lanes = lanes_of(num_inputs);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t strip = 0; strip < strips_of(num_outputs); ++strip)
    for (int64_t column = 0; column < kColumns; ++column) {
      const int64_t output = strip * kColumns + column;
      const int8_t* row = weight + output * num_inputs;
      int8_t* lane = packed + strip * strip_bytes(num_inputs) + column * kGroup;
      for (int64_t i = 0; i < num_lanes * kGroup; ++i)
        lane[i / kGroup * kColumns * kGroup + i % kGroup] = output < num_outputs && i < num_inputs ? row[i] : int8_t(0);
    }
}

// Steps from 0 to a row's largest size: what 16 bits hold and exact sums in 32 bits allow, thousands of them, which
// take no longer than the 127 of 8 bits.
int32_t int8_steps(int64_t num_inputs) {
  const int64_t most = INT32_MAX / (128 * (num_inputs < 1 ? 1 : num_inputs));  // 128: a stranger's -128
  return int32_t(most < INT16_MAX ? most : INT16_MAX);
}

constexpr float kLeast = 0x1p-100f;  // a row of smaller numbers counts as zeros: steps / x would overflow

// Quantises a row into its place in a panel, lane after lane kRowsAtOnce apart, and returns its scale: the largest
// size / steps, or NaN if a value is not finite, which an integer could not say. `integers` holds width + Vec::width.
template <class T>
inline float quantize_row(const T* x, int64_t width, float steps, int32_t* integers, int32_t* panel) {
  Vec size = set1(0.0f), probe = set1(0.0f);
  const auto look = [&](Vec v) {
    size = max(size, max(v, set1(0.0f) - v));
    probe = fma(v, set1(0.0f), probe);  // 0, or NaN
  };
  for_lanes(width, [&](int64_t i) { look(load(x + i)); }, [&](int64_t i, int64_t n) { look(load_n(x + i, n)); });
  const float amax = largest(size), not_finite = sum(probe);
  const bool is_zero = !(amax >= kLeast) || not_finite != 0.0f;
  const Vec inverse = set1(is_zero ? 0.0f : steps / amax);
  const auto convert_to = [&](int64_t i, Vec v) { store_lanes(integers + i, to_integer(v * inverse)); };
  if (not_finite == 0.0f)
    for_lanes(
        width, [&](int64_t i) { convert_to(i, load(x + i)); },
        [&](int64_t i, int64_t n) { convert_to(i, load_n(x + i, n)); });
  else
    memset(integers, 0, size_t(width) * sizeof *integers);
  for (int64_t i = width; i < width + kGroup; ++i) integers[i] = 0;
  for (int64_t lane = 0; lane < lanes_of(width); ++lane)
    panel[lane * kRowsAtOnce] =
        int32_t(uint32_t(integers[2 * lane]) & 0xffff) | int32_t(uint32_t(integers[2 * lane + 1]) << 16);
  return not_finite != 0.0f ? not_finite : is_zero ? 1.0f : amax / steps;
}

// c += a b for kRowsAtOnce x kColumns sums over `depth` lanes.
inline void integer_tile(const int32_t* a, const int8_t* b, int64_t depth, int32_t* c) {
  constexpr int64_t kBytes = Vec::width * int64_t(sizeof(int32_t));
  Lanes sum[kRowsAtOnce][kColumnVectors];
  for (int64_t m = 0; m < kRowsAtOnce; ++m)
    for (int64_t v = 0; v < kColumnVectors; ++v) sum[m][v] = load_lanes(c + m * kColumns + v * Vec::width);
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t m = 0; m < kRowsAtOnce; ++m)
      for (int64_t v = 0; v < kColumnVectors; ++v)
        sum[m][v] = multiply_add(set_lanes(a[k * kRowsAtOnce + m]), load_lanes(b + (k * kColumnVectors + v) * kBytes),
                                 sum[m][v]);
  for (int64_t m = 0; m < kRowsAtOnce; ++m)
    for (int64_t v = 0; v < kColumnVectors; ++v) store_lanes(c + m * kColumns + v * Vec::width, sum[m][v]);
}

template <class T>
class Int8Linear {
 public:
  Int8Linear(const Int8LinearArgs<T>& args, int num_threads)
      : a_(args),
        num_lanes_(lanes_of(args.num_inputs)),
        num_strips_(strips_of(args.num_outputs)),
        steps_(float(int8_steps(args.num_inputs))) {
    Arena arena(args.workspace);
    const int64_t rows = args.num_rows < kChunkRows ? round_up(args.num_rows, kRowsAtOnce) : kChunkRows;
    panels_ = arena.take<int32_t>(rows * num_lanes_);
    scales_ = arena.take<float>(rows);
    integers_ = arena.take<int32_t>(num_threads * integers_size());
    sums_ = arena.take<int32_t>(num_threads * kBlockRows * kColumns);
    weights_ = arena.take<int8_t>(num_threads * kDepth * kColumns * int64_t(sizeof(int32_t)));
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
  int64_t integers_size() const { return round_up(a_.num_inputs + Vec::width + kGroup, 16); }

  void pack(int64_t first, int64_t row, int64_t rows) const {
    int32_t* panel = panels_ + row / kRowsAtOnce * kRowsAtOnce * num_lanes_ + row % kRowsAtOnce;
    if (row < rows)
      scales_[row] = quantize_row(a_.x + (first + row) * a_.x_stride, a_.num_inputs, steps_,
                                  integers_ + omp_get_thread_num() * integers_size(), panel);
    else
      for (int64_t lane = 0; lane < num_lanes_; ++lane) panel[lane * kRowsAtOnce] = 0;
  }

  // One strip of outputs for the rows of a chunk from `begin`, at most kBlockRows.
  void multiply(int64_t first, int64_t begin, int64_t rows, int64_t strip) const {
    const int64_t count = rows - begin < kBlockRows ? rows - begin : kBlockRows;
    int32_t* sums = sums_ + omp_get_thread_num() * kBlockRows * kColumns;
    const int8_t* lanes = a_.weight + strip * strip_bytes(a_.num_inputs);
    memset(sums, 0, size_t(round_up(count, kRowsAtOnce) * kColumns) * sizeof *sums);
    for (int64_t lane = 0; lane < num_lanes_; lane += kDepth) {
      const int64_t depth = num_lanes_ - lane < kDepth ? num_lanes_ - lane : kDepth;
      const int8_t* weights = widened(lanes + lane * kColumns * kGroup, depth);
      for (int64_t row = 0; row < count; row += kRowsAtOnce)
        integer_tile(panels_ + (begin + row) * num_lanes_ + lane * kRowsAtOnce, weights, depth, sums + row * kColumns);
    }
    const int64_t column = strip * kColumns;
    const int64_t width = a_.num_outputs - column < kColumns ? a_.num_outputs - column : kColumns;
    for (int64_t row = 0; row < count; ++row)
      scale_sums(sums + row * kColumns, scales_[begin + row], column,
                 a_.y + (first + begin + row) * a_.y_stride + column, width);
  }

  const int8_t* widened(const int8_t* lanes, int64_t depth) const {
    int8_t* out = weights_ + omp_get_thread_num() * kDepth * kColumns * int64_t(sizeof(int32_t));
    int16_t* wide = reinterpret_cast<int16_t*>(out);
    for (int64_t i = 0; i < depth * kColumns * kGroup; ++i) wide[i] = lanes[i];
    return out;
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
  int32_t* panels_;    // [panels of a chunk][lanes][kRowsAtOnce]
  float* scales_;      // [rows of a chunk]
  int32_t* integers_;  // of each thread: one row
  int32_t* sums_;      // of each thread: [kBlockRows][kColumns]
  int8_t* weights_;    // of each thread: [kDepth][kColumns] lanes
};

template <class T>
int64_t int8_linear_workspace_bytes(const Int8LinearArgs<T>& a, int num_threads) {
  return Int8Linear<T>(a, num_threads).workspace_bytes;
}

template <class T>
void int8_linear(const Int8LinearArgs<T>& a, int num_threads) {
  const Int8Linear<T> linear(a, num_threads);
#pragma omp parallel num_threads(num_threads)
  linear.run();
}
