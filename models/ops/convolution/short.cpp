// The short causal convolution of models/ops/short_convolution.py and the first gate's product, for
// one CPU in float32: all streams of a channel in one pass, while its lines are in the cache.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// y[t] = Σ_j w[j] x[t − j]
void convolve(const float* x, const float* w, int64_t width, int64_t length, float* y) {
  const int64_t taps = std::min(width, length);
  if (taps == 3) {
    y[0] = w[0] * x[0];
    y[1] = w[0] * x[1] + w[1] * x[0];
#pragma omp simd
    for (int64_t t = 2; t < length; ++t) y[t] = w[0] * x[t] + w[1] * x[t - 1] + w[2] * x[t - 2];
    return;
  }
#pragma omp simd
  for (int64_t t = 0; t < length; ++t) y[t] = w[0] * x[t];
  for (int64_t j = 1; j < taps; ++j)
#pragma omp simd
    for (int64_t t = j; t < length; ++t) y[t] += w[j] * x[t - j];
}

// gx[t] = Σ_j w[j] g[t + j], and gw[j] += Σ_t g[t] x[t − j]
void reverse(const float* g, const float* x, const float* w, int64_t width, int64_t length, float* gx, float* gw) {
  const int64_t taps = std::min(width, length);
  if (taps == 3) {
    float a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
    for (int64_t t = 2; t < length; ++t) {
      a += g[t] * x[t];
      b += g[t] * x[t - 1];
      c += g[t] * x[t - 2];
    }
    gw[0] += a + g[0] * x[0] + g[1] * x[1];
    gw[1] += b + g[1] * x[0];
    gw[2] += c;
#pragma omp simd
    for (int64_t t = 0; t < length - 2; ++t) gx[t] = w[0] * g[t] + w[1] * g[t + 1] + w[2] * g[t + 2];
    gx[length - 2] = w[0] * g[length - 2] + w[1] * g[length - 1];
    gx[length - 1] = w[0] * g[length - 1];
    return;
  }
  for (int64_t j = 0; j < taps; ++j) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = j; t < length; ++t) sum += g[t] * x[t - j];
    gw[j] += sum;
    if (j == 0) {
#pragma omp simd
      for (int64_t t = 0; t < length; ++t) gx[t] = w[0] * g[t];
    } else {
#pragma omp simd
      for (int64_t t = 0; t < length - j; ++t) gx[t] += w[j] * g[t + j];
    }
  }
}

}  // namespace

extern "C" {

// Streams [S, D, B, L] with weights [S, D, width] to S − 1 outputs [D, B, L]: the product of the
// first and the last, both convolved, and the streams between them.
void streams_forward(const float* x, const float* weight, int64_t streams, int64_t channels, int64_t batch,
                     int64_t length, int64_t width, int64_t threads, float* const* y) {
  const int64_t block = channels * batch * length, last = streams - 1;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(length);
#pragma omp for schedule(static)
    for (int64_t d = 0; d < channels; ++d)
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t line = (d * batch + b) * length;
        for (int64_t s = 0; s < last; ++s)
          convolve(x + s * block + line, weight + (s * channels + d) * width, width, length, y[s] + line);
        convolve(x + last * block + line, weight + (last * channels + d) * width, width, length, scratch.data());
        float* product = y[0] + line;
        const float* value = scratch.data();
#pragma omp simd
        for (int64_t t = 0; t < length; ++t) product[t] *= value[t];
      }
  }
}

// Gradients of x and of the weights; both are overwritten.
void streams_backward(const float* x, const float* weight, const float* const* gradient, int64_t streams,
                      int64_t channels, int64_t batch, int64_t length, int64_t width, int64_t threads,
                      float* x_gradient, float* weight_gradient) {
  const int64_t block = channels * batch * length, last = streams - 1;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(4 * length);
    float *gate = scratch.data(), *value = gate + length, *to_gate = value + length, *to_value = to_gate + length;
#pragma omp for schedule(static)
    for (int64_t d = 0; d < channels; ++d) {
      for (int64_t s = 0; s < streams; ++s)
        std::memset(weight_gradient + (s * channels + d) * width, 0, width * sizeof(float));
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t line = (d * batch + b) * length;
        convolve(x + line, weight + d * width, width, length, gate);
        convolve(x + last * block + line, weight + (last * channels + d) * width, width, length, value);
        const float* product = gradient[0] + line;
#pragma omp simd
        for (int64_t t = 0; t < length; ++t) {
          to_gate[t] = product[t] * value[t];
          to_value[t] = product[t] * gate[t];
        }
        for (int64_t s = 0; s < streams; ++s) {
          const float* g = s == 0 ? to_gate : s == last ? to_value : gradient[s] + line;
          const int64_t row = s * channels + d;
          reverse(g, x + s * block + line, weight + row * width, width, length, x_gradient + s * block + line,
                  weight_gradient + row * width);
        }
      }
    }
  }
}
}
