// A vector of floats, once per instruction set, behind one set of names. Included by isa_*.cpp only, inside the
// anonymous namespace: nothing here may be seen by the linker, or a host could run another host's instructions.
//
// isa.inc lists the values of CODESCALER_ISA.
// min and max give their second operand where either is NaN.

#if CODESCALER_AVX512

struct Vec {
  static constexpr int64_t width = 16;
  __m512 v;
};

inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
inline __mmask16 first_lanes(int64_t n) { return __mmask16((1u << n) - 1); }
inline Vec load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store_n(float* p, Vec x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x.v); }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline float sum(Vec x) { return _mm512_reduce_add_ps(x.v); }
inline float largest(Vec x) { return _mm512_reduce_max_ps(x.v); }
inline Vec round(Vec x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// x * 2^n, n a whole number
inline Vec scale_by_power(Vec x, Vec n) { return {_mm512_scalef_ps(x.v, n.v)}; }
// x in lanes [first, last), `fill` in the others
inline Vec keep_between(Vec x, int64_t first, int64_t last, Vec fill) {
  return {_mm512_mask_mov_ps(fill.v, __mmask16(first_lanes(last) & ~first_lanes(first)), x.v)};
}
inline Vec widen(__m256i x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }
inline Vec load(const BFloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load_n(const BFloat16* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline __m256i narrow(Vec x) {
#if CODESCALER_ISA == 3
  return (__m256i)_mm512_cvtneps_pbh(x.v);
#else
  const __m512i bits = _mm512_castps_si512(x.v), high = _mm512_srli_epi32(bits, 16);
  const __m512i bias = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40)));
#endif
}
inline void store(BFloat16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store_n(BFloat16* p, Vec x, int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(x)); }

#else  // AVX2, NEON and generic share what they lack: masked memory and scalef

#if CODESCALER_NEON
#include "simd_neon.h"
#elif CODESCALER_ISA == 1

struct Vec {
  static constexpr int64_t width = 8;
  __m256 v;
};

inline Vec set1(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec round(Vec x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// 2^n for whole n in [-126, 127]
inline Vec power_of_two(Vec n) {
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}
inline Vec load(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
inline void store(BFloat16* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x.v), high = _mm256_srli_epi32(bits, 16);
  const __m256i bias = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i result = _mm256_blendv_epi8(rounded, quiet, is_nan);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1)));
}

#else

// Four lanes in the compiler's own vector type: the baseline of every 64-bit CPU, without naming one.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t UInt4 __attribute__((vector_size(16)));
typedef uint16_t UShort4 __attribute__((vector_size(8)));

struct Vec {
  static constexpr int64_t width = 4;
  Float4 v;
};

inline Vec set1(float x) { return {Float4{x, x, x, x}}; }
inline Vec load(const float* p) {
  Vec x;
  memcpy(&x.v, p, sizeof x.v);
  return x;
}
inline void store(float* p, Vec x) { memcpy(p, &x.v, sizeof x.v); }
inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
// To the nearest whole number for |x| < 2^22, which is all that exp asks for.
inline Vec round(Vec x) { return x + set1(0x1.8p23f) - set1(0x1.8p23f); }
inline Vec power_of_two(Vec n) { return {(Float4)((__builtin_convertvector(n.v, Int4) + 127) << 23)}; }
inline Vec load(const BFloat16* p) {
  UShort4 bits;
  memcpy(&bits, p, sizeof bits);
  return {(Float4)(__builtin_convertvector(bits, UInt4) << 16)};
}
inline void store(BFloat16* p, Vec x) {
  const UInt4 bits = (UInt4)x.v, high = bits >> 16;
  const UInt4 rounded = (bits + ((high & 1u) + 0x7fffu)) >> 16;
  const UShort4 result = __builtin_convertvector(x.v == x.v ? rounded : (high | 0x40u), UShort4);
  memcpy(p, &result, sizeof result);
}

#endif

template <class T>
inline Vec load_n(const T* p, int64_t n) {
  T lanes[Vec::width] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T>
inline void store_n(T* p, Vec x, int64_t n) {
  T lanes[Vec::width];
  store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#if !CODESCALER_NEON
inline float sum(Vec x) {
  float lanes[Vec::width];
  store(lanes, x);
  for (int64_t half = Vec::width / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
inline float largest(Vec x) {
  float lanes[Vec::width];
  store(lanes, x);
  float result = lanes[0];
  for (int64_t i = 1; i < Vec::width; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}
inline Vec keep_between(Vec x, int64_t first, int64_t last, Vec fill) {
  float lanes[Vec::width], kept[Vec::width];
  store(lanes, x);
  store(kept, fill);
  for (int64_t i = first; i < last; ++i) kept[i] = lanes[i];
  return load(kept);
}
#endif
// In two steps, since 2^n alone leaves the range of float where x * 2^n does not.
inline Vec scale_by_power(Vec x, Vec n) {
  const Vec half = round(n * set1(0.5f));
  return x * power_of_two(half) * power_of_two(n - half);
}

#endif

// e^x = 2^n e^r with n = round(x log2 e), |r| <= ln(2) / 2; gives n and e^r - 1.
// The polynomial is a Chebyshev fit of (e^r - 1 - r) / r^2; its relative error is 1.1e-8.
inline Vec exp_reduced(Vec x, Vec& n) {
  n = round(x * set1(0x1.715476p+0f));
  const Vec r = fma(n, set1(-1.42860677e-6f), fma(n, set1(-0.693145752f), x));  // ln 2 in two parts
  Vec p = set1(1.393365249e-3f);
  p = fma(p, r, set1(8.363181545e-3f));
  p = fma(p, r, set1(4.166646490e-2f));
  p = fma(p, r, set1(1.666657697e-1f));
  p = fma(p, r, set1(5.000000013e-1f));
  return fma(p * r, r, r);
}

// exp(0) is exactly 1 and exp(-inf) exactly 0; NaN stays NaN.
inline Vec exp(Vec x) {
  Vec n;
  const Vec e = exp_reduced(min(set1(89.0f), max(set1(-104.0f), x)), n);
  return scale_by_power(e + set1(1.0f), n);
}

// 2^x for x <= 0, which is all that softmax asks for: 2^0 is exactly 1, 2^-inf exactly 0, NaN stays NaN.
// The polynomial is a Chebyshev fit of (2^r - 1) / r for |r| <= 1/2; its relative error is 8.7e-9.
inline Vec exp2_of_negative(Vec x) {
  x = max(set1(-152.0f), x);
  const Vec n = round(x), r = x - n;
  Vec p = set1(1.546144922e-4f);
  p = fma(p, r, set1(1.339086797e-3f));
  p = fma(p, r, set1(9.618056938e-3f));
  p = fma(p, r, set1(5.550356954e-2f));
  p = fma(p, r, set1(2.402265072e-1f));
  p = fma(p, r, set1(6.931471825e-1f));
  return scale_by_power(fma(p, r, set1(1.0f)), n);
}

// tanh(x) = m / (m + 2), m = e^2x - 1; exact near 0, where 1 - 2 / (e^2x + 1) cancels.
inline Vec tanh(Vec x) {
  Vec n;
  const Vec e = exp_reduced(min(set1(20.0f), max(set1(-20.0f), x + x)), n);
  const Vec power = scale_by_power(set1(1.0f), n);
  const Vec m = fma(power, e, power - set1(1.0f));
  return m / (m + set1(2.0f));
}
