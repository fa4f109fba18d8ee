// simd.h's vector on AArch64: four floats of NEON. Included by simd.h only.

struct Vec {
  static constexpr int64_t width = 4;
  float32x4_t v;
};

inline Vec set1(float x) { return {vdupq_n_f32(x)}; }
inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec x) { vst1q_f32(p, x.v); }
inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
// Not vminq and vmaxq, which give NaN where either operand is NaN.
inline Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline float sum(Vec x) { return vaddvq_f32(x.v); }
inline float largest(Vec x) { return vmaxnmvq_f32(x.v); }
inline Vec round(Vec x) { return {vrndnq_f32(x.v)}; }
// 2^n for whole n in [-126, 127]
inline Vec power_of_two(Vec n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}
inline Vec keep_between(Vec x, int64_t first, int64_t last, Vec fill) {
  const int32_t indices[4] = {0, 1, 2, 3};
  const int32x4_t index = vld1q_s32(indices);
  const uint32x4_t is_kept =
      vandq_u32(vcgeq_s32(index, vdupq_n_s32(int32_t(first))), vcltq_s32(index, vdupq_n_s32(int32_t(last))));
  return {vbslq_f32(is_kept, x.v, fill.v)};
}
inline Vec load(const BFloat16* p) {
  return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16))};
}
inline uint16x4_t narrow(Vec x) {
#if CODESCALER_ISA == 5
  return vreinterpret_u16_bf16(vcvt_bf16_f32(x.v));
#else
  const uint32x4_t bits = vreinterpretq_u32_f32(x.v), high = vshrq_n_u32(bits, 16);
  const uint32x4_t bias = vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, bias), 16), quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x.v, x.v), rounded, quiet));
#endif
}
inline void store(BFloat16* p, Vec x) { vst1_u16(reinterpret_cast<uint16_t*>(p), narrow(x)); }
