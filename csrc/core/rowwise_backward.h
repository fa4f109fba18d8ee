// Gradients of the operations in rowwise.h. All arithmetic is float, whatever the activations are.
// Included by isa_*.cpp only, inside the anonymous namespace, after rowwise.h.

// x = z / sqrt(mean(z^2) + eps), y = x * weight, so with g = grad_y * weight
//     grad_z = (g - x * mean(g * x)) / sqrt(mean(z^2) + eps), plus what comes to z itself,
//     grad_weight = sum over rows of grad_y * x.
// The sum runs over chunks of kWeightRows rows, one row of `grad_weight` each, so that threads do not show in it.
template <class T>
void rms_norm_backward(const RmsNormBackwardArgs<T>& a, int num_threads) {
  const int64_t num_chunks = (a.num_rows + kWeightRows - 1) / kWeightRows;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    float* sums = a.grad_weight + chunk * a.width;
    memset(sums, 0, size_t(a.width) * sizeof(float));
    const int64_t end = (chunk + 1) * kWeightRows < a.num_rows ? (chunk + 1) * kWeightRows : a.num_rows;
    for (int64_t row = chunk * kWeightRows; row < end; ++row) {
      const float* z = a.z + row * a.width;
      const T* grad_y = a.grad_y + row * a.width;
      const float* also = a.grad_residual ? a.grad_residual + row * a.width : nullptr;
      float* grad_z = a.grad_z + row * a.width;
      Vec squares = set1(0.0f), dot = set1(0.0f);
      const auto add = [&](Vec z_i, Vec g) { squares = fma(z_i, z_i, squares), dot = fma(g, z_i, dot); };
      for_lanes(
          a.width, [&](int64_t i) { add(load(z + i), load(grad_y + i) * load(a.weight + i)); },
          [&](int64_t i, int64_t n) { add(load_n(z + i, n), load_n(grad_y + i, n) * load_n(a.weight + i, n)); });
      const float inverse = inverse_rms(squares, a.width, a.eps);
      const Vec scale = set1(inverse), mean = set1(sum(dot) * inverse / float(a.width));
      const auto finish = [&](int64_t i, auto get, auto put) {
        const Vec x = get(z + i) * scale, grad = get(grad_y + i);
        Vec result = (grad * get(a.weight + i) - x * mean) * scale;
        if (also) result = result + get(also + i);
        put(grad_z + i, result);
        put(sums + i, fma(grad, x, get(sums + i)));
      };
      for_lanes(
          a.width,
          [&](int64_t i) { finish(i, [](const auto* p) { return load(p); }, [](float* p, Vec v) { store(p, v); }); },
          [&](int64_t i, int64_t n) {
            finish(i, [n](const auto* p) { return load_n(p, n); }, [n](float* p, Vec v) { store_n(p, v, n); });
          });
    }
  }
}

// The value of an activation and its derivative. Both are x * sigmoid(u), with u = x for SiLU and, since
// (1 + tanh(y)) / 2 = sigmoid(2 y), twice the argument of tanh for GELU.
struct Activated {
  Vec value, slope;
};
template <Activation activation>
inline Activated activate_with_slope(Vec x) {
  const Vec one = set1(1.0f);
  Vec u = x, u_slope = one;
  if constexpr (activation == Activation::gelu_tanh) {
    const Vec root = set1(1.59576912f), cubic = set1(0.044715f);  // 2 sqrt(2 / pi)
    u = x * fma(x * x, cubic, one) * root;
    u_slope = fma(x * x, cubic * set1(3.0f), one) * root;
  }
  const Vec e = exp(min(set1(80.0f), set1(0.0f) - u));  // no overflow, so that e * sigmoid is 1 - sigmoid, exactly
  const Vec sigmoid = one / (one + e), value = x * sigmoid;
  return {value, fma(value * (e * sigmoid), u_slope, sigmoid)};
}

template <Activation activation, class T>
void glu_backward_rows(const GluBackwardArgs<T>& a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const T *gate = a.gate_up + row * 2 * a.width, *up = gate + a.width, *grad_y = a.grad_y + row * a.width;
    T *grad_gate = a.grad_gate_up + row * 2 * a.width, *grad_up = grad_gate + a.width;
    const auto work = [&](int64_t i, auto get, auto put) {
      const Activated g = activate_with_slope<activation>(get(gate + i));
      const Vec grad = get(grad_y + i);
      put(grad_gate + i, grad * get(up + i) * g.slope);
      put(grad_up + i, grad * g.value);
    };
    for_lanes(
        a.width, [&](int64_t i) { work(i, [](const T* p) { return load(p); }, [](T* p, Vec v) { store(p, v); }); },
        [&](int64_t i, int64_t n) {
          work(i, [n](const T* p) { return load_n(p, n); }, [n](T* p, Vec v) { store_n(p, v, n); });
        });
  }
}

template <class T>
void glu_backward(const GluBackwardArgs<T>& a, int num_threads) {
  if (a.activation == Activation::silu)
    glu_backward_rows<Activation::silu>(a, num_threads);
  else
    glu_backward_rows<Activation::gelu_tanh>(a, num_threads);
}
