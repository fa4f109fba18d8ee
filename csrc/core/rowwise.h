// Operations that touch each token alone: norms, RoPE, gated activation, pooled score.
// Included by isa_*.cpp only, inside the anonymous namespace, after simd.h.

// Calls full(i) for every whole vector in [0, size) and rest(i, n) for the n lanes that are left.
template <class Full, class Rest>
inline void for_lanes(int64_t size, Full full, Rest rest) {
  int64_t i = 0;
  for (; i + Vec::width <= size; i += Vec::width) full(i);
  if (i < size) rest(i, size - i);
}

inline float inverse_rms(Vec squares, int64_t width, float eps) {
  return 1.0f / sqrtf(sum(squares) / float(width) + eps);
}

// y = z * scale * weight
template <class T, class Z>
inline void scale_row(const Z* z, float scale, const float* weight, T* y, int64_t width) {
  const Vec s = set1(scale);
  for_lanes(
      width, [&](int64_t i) { store(y + i, load(z + i) * s * load(weight + i)); },
      [&](int64_t i, int64_t n) { store_n(y + i, load_n(z + i, n) * s * load_n(weight + i, n), n); });
}

// z = residual + x, and the sum of its squares. z may be the residual itself.
template <class T>
inline Vec add_rows(const float* residual, const T* x, float* z, int64_t width) {
  Vec squares = set1(0.0f);
  for_lanes(
      width,
      [&](int64_t i) {
        const Vec v = load(residual + i) + load(x + i);
        store(z + i, v);
        squares = fma(v, v, squares);
      },
      [&](int64_t i, int64_t n) {
        const Vec v = load_n(residual + i, n) + load_n(x + i, n);
        store_n(z + i, v, n);
        squares = fma(v, v, squares);
      });
  return squares;
}

template <class T>
void rms_norm(const RmsNormArgs<T>& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const T* x = a.x + row * a.x_stride;
    T* y = a.y + row * a.y_stride;
    if (a.residual) {
      float* z = a.residual + row * a.residual_stride;
      const Vec squares = add_rows(z, x, z, a.width);
      scale_row(z, inverse_rms(squares, a.width, a.eps), a.weight, y, a.width);
    } else {
      Vec squares = set1(0.0f);
      const auto add = [&](Vec v) { squares = fma(v, v, squares); };
      for_lanes(a.width, [&](int64_t i) { add(load(x + i)); }, [&](int64_t i, int64_t n) { add(load_n(x + i, n)); });
      scale_row(x, inverse_rms(squares, a.width, a.eps), a.weight, y, a.width);
    }
  }
}

// One head: normalised where `weight` is given, then (a, b) -> (a cos - b sin, b cos + a sin) on its two halves.
template <class T>
inline void apply_rope(T* head, int64_t half, const float* cos, const float* sin, const float* weight, float eps) {
  Vec scale = set1(1.0f);
  if (weight) {
    Vec squares = set1(0.0f);
    const auto add = [&](Vec v) { squares = fma(v, v, squares); };
    for_lanes(
        2 * half, [&](int64_t i) { add(load(head + i)); }, [&](int64_t i, int64_t n) { add(load_n(head + i, n)); });
    scale = set1(inverse_rms(squares, 2 * half, eps));
  }
  const auto rotate_pair = [&](int64_t i, auto get, auto put) {
    Vec a = get(head + i), b = get(head + half + i);
    if (weight) {
      a = a * scale * get(weight + i);
      b = b * scale * get(weight + half + i);
    }
    const Vec c = get(cos + i), s = get(sin + i);
    put(head + i, a * c - b * s);
    put(head + half + i, b * c + a * s);
  };
  for_lanes(
      half, [&](int64_t i) { rotate_pair(i, [](const auto* p) { return load(p); }, [](T* p, Vec v) { store(p, v); }); },
      [&](int64_t i, int64_t n) {
        rotate_pair(i, [n](const auto* p) { return load_n(p, n); }, [n](T* p, Vec v) { store_n(p, v, n); });
      });
}

template <class T>
void qk_norm_rope(const QkNormRopeArgs<T>& a, int num_threads) {
  const int64_t half = a.head_dim / 2;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t token = 0; token < a.num_tokens; ++token) {
    T* row = a.qkv + token * a.stride;
    const float* cos = a.cos + a.positions[token] * half;
    const float* sin = a.sin + a.positions[token] * half;
    for (int64_t h = 0; h < a.num_heads + a.num_kv_heads; ++h)
      apply_rope(row + h * a.head_dim, half, cos, sin, h < a.num_heads ? a.q_norm : a.k_norm, a.eps);
  }
}

template <Activation activation>
inline Vec activate(Vec x) {
  if constexpr (activation == Activation::silu) return x / (set1(1.0f) + exp(set1(0.0f) - x));
  const Vec inner = x * fma(x * x, set1(0.044715f), set1(1.0f)) * set1(0.797884561f);  // sqrt(2 / pi)
  return set1(0.5f) * x * (set1(1.0f) + tanh(inner));
}

template <Activation activation, class T>
void glu_rows(const GluArgs<T>& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const T *gate = a.gate_up + row * a.gate_up_stride, *up = gate + a.width;
    T* y = a.y + row * a.y_stride;
    for_lanes(
        a.width, [&](int64_t i) { store(y + i, activate<activation>(load(gate + i)) * load(up + i)); },
        [&](int64_t i, int64_t n) {
          store_n(y + i, activate<activation>(load_n(gate + i, n)) * load_n(up + i, n), n);
        });
  }
}

template <class T>
void glu(const GluArgs<T>& a, int num_threads) {
  if (a.activation == Activation::silu)
    glu_rows<Activation::silu>(a, num_threads);
  else
    glu_rows<Activation::gelu_tanh>(a, num_threads);
}

template <class T>
void log_sum_exp(const LogSumExpArgs<T>& a, int num_threads) {
  const bool has_softcap = a.softcap != 0.0f;
  const Vec cap = set1(a.softcap), inverse_cap = set1(has_softcap ? 1.0f / a.softcap : 0.0f);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const T* logits = a.logits + row * a.logits_stride;
    float* running = a.running + row * 2;
    const auto limit = [&](Vec x) { return has_softcap ? cap * tanh(x * inverse_cap) : x; };
    const Vec lowest = set1(-INFINITY);
    Vec highest = lowest;
    for_lanes(
        a.width, [&](int64_t i) { highest = max(load(logits + i), highest); },
        [&](int64_t i, int64_t n) { highest = max(keep_between(load_n(logits + i, n), 0, n, lowest), highest); });
    // A cap keeps the order, and what runs was capped before.
    const float most = fmaxf(running[0], largest(limit(set1(largest(highest)))));
    const Vec shift = set1(most);
    Vec total = set1(0.0f);
    for_lanes(
        a.width, [&](int64_t i) { total = total + exp(limit(load(logits + i)) - shift); },
        [&](int64_t i, int64_t n) {
          total = total + keep_between(exp(limit(load_n(logits + i, n)) - shift), 0, n, set1(0.0f));
        });
    float lanes[Vec::width];
    store(lanes, exp(set1(running[0] - most)));
    running[0] = most;
    running[1] = running[1] * lanes[0] + sum(total);
  }
}

template <class T>
void pooled_score(const PooledScoreArgs<T>& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t b = 0; b < a.num_rows; ++b) {
    const T* x = a.x + a.rows[b] * a.x_stride;
    const float* residual = a.residual + a.rows[b] * a.residual_stride;
    float* z = a.features + b * a.width;
    const Vec squares = add_rows(residual, x, z, a.width);
    scale_row(z, inverse_rms(squares, a.width, a.eps), a.norm_weight, z, a.width);
    if (!a.head_weight) continue;
    Vec dot = set1(0.0f);
    for_lanes(
        a.width, [&](int64_t i) { dot = fma(load(z + i), load(a.head_weight + i), dot); },
        [&](int64_t i, int64_t n) { dot = fma(load_n(z + i, n), load_n(a.head_weight + i, n), dot); });
    a.scores[b] = sum(dot) + a.head_bias;
  }
}
