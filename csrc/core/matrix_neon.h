// matrix_kernel on Arm's matrix instructions, bfmmla of bfloat16 and smmla of int8. Included by tree_attention.h only.
// A register of operands holds 8 bytes of two rows or columns, and one of sums a block of two rows and two columns.

// Two pieces of 8 bytes as one register.
template <class E>
inline int8x16_t load_two(const E* first, const E* second) {
  return vcombine_s8(vld1_s8(reinterpret_cast<const int8_t*>(first)), vld1_s8(reinterpret_cast<const int8_t*>(second)));
}

struct BFloat16Blocks {
  float32x4_t v;
  void load(const float* top, const float* bottom) { v = vreinterpretq_f32_s8(load_two(top, bottom)); }
  void add(int8x16_t left, int8x16_t right) {
    v = vbfmmlaq_f32(v, vreinterpretq_bf16_s8(left), vreinterpretq_bf16_s8(right));
  }
  void store_top(float* p) const { vst1_f32(p, vget_low_f32(v)); }
  void store_bottom(float* p) const { vst1_f32(p, vget_high_f32(v)); }
};
struct Int8Blocks {
  int32x4_t v;
  void load(const int32_t* top, const int32_t* bottom) { v = vreinterpretq_s32_s8(load_two(top, bottom)); }
  void add(int8x16_t left, int8x16_t right) { v = vmmlaq_s32(v, left, right); }
  void store_top(int32_t* p) const { vst1_s32(p, vget_low_s32(v)); }
  void store_bottom(int32_t* p) const { vst1_s32(p, vget_high_s32(v)); }
};
inline BFloat16Blocks make_zero_blocks(const float*) { return {vdupq_n_f32(0.0f)}; }
inline Int8Blocks make_zero_blocks(const int32_t*) { return {vdupq_n_s32(0)}; }

// c (+)= a b for Rows x kColumns sums. Of the summed dimension a step takes 8 bytes: those of row m stand at
// a + k * a_step + m * a_stride, those of column n at b + k * b_stride + n * 8.
template <int64_t Rows, class Sum>
inline void matrix_kernel(const int8_t* a, int64_t a_stride, int64_t a_step, const int8_t* b, int64_t b_stride,
                          int64_t depth, Sum* c, int64_t c_stride, bool accumulate) {
  constexpr int64_t kRowPairs = (Rows + 1) / 2, kColumnPairs = kColumns / 2;
  // The last of an odd number of rows stands for its absent partner too.
  const auto partner = [](int64_t m) { return 2 * m + 1 < Rows ? 2 * m + 1 : 2 * m; };
  decltype(make_zero_blocks(c)) sum[kRowPairs][kColumnPairs];
  for (int64_t m = 0; m < kRowPairs; ++m)
    for (int64_t v = 0; v < kColumnPairs; ++v) {
      sum[m][v] = make_zero_blocks(c);
      if (accumulate) sum[m][v].load(c + 2 * m * c_stride + 2 * v, c + partner(m) * c_stride + 2 * v);
    }
  for (int64_t k = 0; k < depth; ++k) {
    int8x16_t left[kRowPairs];
    for (int64_t m = 0; m < kRowPairs; ++m)
      left[m] = load_two(a + k * a_step + 2 * m * a_stride, a + k * a_step + partner(m) * a_stride);
    for (int64_t v = 0; v < kColumnPairs; ++v) {
      const int8x16_t right = vld1q_s8(b + k * b_stride + v * 16);
      for (int64_t m = 0; m < kRowPairs; ++m) sum[m][v].add(left[m], right);
    }
  }
  for (int64_t m = 0; m < kRowPairs; ++m)
    for (int64_t v = 0; v < kColumnPairs; ++v) {
      sum[m][v].store_top(c + 2 * m * c_stride + 2 * v);
      if (2 * m + 1 < Rows) sum[m][v].store_bottom(c + (2 * m + 1) * c_stride + 2 * v);
    }
}
