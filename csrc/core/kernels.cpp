// What needs no instruction set of its own: host detection, the pairwise loss.
#include "kernels.h"

#include <algorithm>
#include <cmath>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#ifndef HWCAP2_I8MM  // headers of a kernel before 5.6
#define HWCAP2_I8MM (1 << 13)
#endif
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif
#endif

namespace codescaler {

int supported_kernels(const Kernels* (&out)[4]) {
  int count = 0;
#if defined(CODESCALER_GENERIC_ONLY)  // of build_flags.json: the other tables are not compiled
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
    out[count++] = &kAvx512Bf16;
  if (has_avx512) out[count++] = &kAvx512;
  if (has_avx2) out[count++] = &kAvx2;
#elif defined(__aarch64__)
#if defined(__linux__)
  constexpr unsigned long kBf16Unit = HWCAP2_BF16 | HWCAP2_I8MM;
  if ((getauxval(AT_HWCAP2) & kBf16Unit) == kBf16Unit) out[count++] = &kNeonBf16;
#endif
  out[count++] = &kNeon;
#endif
  out[count++] = &kGeneric;
  return count;
}

template <class T>
double pairwise_loss(const T* scores, const bool* labels, const int64_t* group_offsets, int64_t num_groups,
                     const float* margins, double center_coefficient, T* gradient) {
  const auto pairs_in = [&](int64_t g) {
    const bool* first = labels + group_offsets[g];
    const bool* last = labels + group_offsets[g + 1];
    const int64_t correct = std::count(first, last, true);
    return correct * (last - first - correct);
  };
  int64_t num_paired = 0;
  for (int64_t g = 0; g < num_groups; ++g) num_paired += pairs_in(g) > 0;

  double loss = 0.0;
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t pairs = pairs_in(g);
    const double weight = 1.0 / (double(pairs) * double(num_paired));
    const double margin = margins ? margins[g] : 0.0;
    for (int64_t m = group_offsets[g]; m < group_offsets[g + 1]; ++m) {
      double gradient_m = 0.0;  // each pair is visited from both of its ends, and its loss counted from the correct one
      for (int64_t n = group_offsets[g]; n < group_offsets[g + 1]; ++n) {
        if (labels[m] == labels[n]) continue;
        const double correct = scores[labels[m] ? m : n], incorrect = scores[labels[m] ? n : m];
        const double gap = correct - incorrect - margin;
        // Without centring the sum must not matter: 0 * infinity would be NaN.
        const double sum = center_coefficient == 0.0 ? 0.0 : correct + incorrect;
        // Both signs of the gap through exp of a number that is not positive: no overflow.
        const double e = std::exp(-std::fabs(gap));
        const double slope = -(gap >= 0 ? e : 1.0) / (1.0 + e), centre = 2.0 * center_coefficient * sum;
        gradient_m += labels[m] ? centre + slope : centre - slope;
        if (labels[m]) loss += weight * (std::fmax(-gap, 0.0) + std::log1p(e) + center_coefficient * sum * sum);
      }
      gradient[m] = pairs ? T(weight * gradient_m) : T(0);
    }
  }
  return loss;
}

template double pairwise_loss(const float*, const bool*, const int64_t*, int64_t, const float*, double, float*);
template double pairwise_loss(const double*, const bool*, const int64_t*, int64_t, const float*, double, double*);

}  // namespace codescaler
