// Mixtures of experts, around the products: which experts a token goes through, and the sum of what they make of it.
// Included by isa_*.cpp only, inside the anonymous namespace, after simd.h and rowwise.h.

// The sum of exp(logit - most) over all experts; NaN where any logit makes it so.
inline float sum_exponentials(const float* logits, int64_t num_experts, float most) {
  Vec total = set1(0.0f);
  for_lanes(
      num_experts, [&](int64_t i) { total = total + exp(load(logits + i) - set1(most)); },
      [&](int64_t i, int64_t n) {
        const Vec e = exp(load_n(logits + i, n) - set1(most));
        total = total + keep_between(e, 0, n, set1(0.0f));
      });
  return sum(total);
}

// The indices of the `num_chosen` largest logits, largest first and of equal ones the first first.
inline void choose_largest(const float* logits, int64_t num_experts, int64_t num_chosen, int32_t* chosen) {
  int64_t count = 0;
  for (int64_t x = 0; x < num_experts; ++x) {
    if (count == num_chosen && !(logits[x] > logits[chosen[count - 1]])) continue;
    int64_t place = count < num_chosen ? count++ : count - 1;
    for (; place > 0 && logits[x] > logits[chosen[place - 1]]; --place) chosen[place] = chosen[place - 1];
    chosen[place] = int32_t(x);
  }
}

inline void route(const RouteArgs& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const float* logits = a.logits + row * a.logits_stride;
    int32_t* experts = a.experts + row * a.num_chosen;
    float *weights = a.weights + row * a.num_chosen, chosen_sum = 0.0f;
    choose_largest(logits, a.num_experts, a.num_chosen, experts);
    const float most = logits[experts[0]], total = sum_exponentials(logits, a.num_experts, most);
    const bool is_number = total == total;
    for (int64_t c = 0; c < a.num_chosen; ++c) {
      if (!is_number) experts[c] = int32_t(c);
      float lanes[Vec::width];
      store(lanes, exp(set1(logits[experts[c]] - most)));
      weights[c] = is_number ? lanes[0] / total : total;
      chosen_sum += weights[c];
    }
    if (a.has_normalised_weights)
      for (int64_t c = 0; c < a.num_chosen; ++c) weights[c] /= chosen_sum;
  }
}

template <class T>
void combine_experts(const CombineExpertsArgs<T>& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t token = 0; token < a.num_tokens; ++token) {
    const int64_t* rows = a.rows + token * a.num_chosen;
    const float* weights = a.weights + token * a.num_chosen;
    T* y = a.y + token * a.width;
    const auto add = [&](int64_t i, auto get) {
      Vec total = set1(0.0f);
      for (int64_t c = 0; c < a.num_chosen; ++c)
        total = fma(get(a.outputs + rows[c] * a.width + i), set1(weights[c]), total);
      return total;
    };
    for_lanes(
        a.width, [&](int64_t i) { store(y + i, add(i, [](const T* p) { return load(p); })); },
        [&](int64_t i, int64_t n) { store_n(y + i, add(i, [n](const T* p) { return load_n(p, n); }), n); });
  }
}
