// The linear scans of models/ops/diagonal_scan.py, linear_recurrence.py and selective_scan.py for one
// CPU in float32: step after step, wide over channels or states, every number read and written once.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Channels or states that one thread carries through time: their lines fill the vector units, and
// few enough are left that small batches still occupy several threads.
constexpr int64_t REAL_BLOCK = 128, COMPLEX_BLOCK = 64;

// h[t] = a[t] h[t − 1] + b[t] for n ≤ REAL_BLOCK neighbouring channels.
void real_forward(const float* a, const float* b, int64_t length, int64_t stride, int64_t n, float* h) {
  float state[REAL_BLOCK] = {};
  for (int64_t t = 0; t < length; ++t, a += stride, b += stride, h += stride)
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) h[j] = state[j] = a[j] * state[j] + b[j];
}

// λ[t] = g[t] + a[t + 1] λ[t + 1], the gradient of b; that of a is λ[t] h[t − 1].
void real_backward(const float* a, const float* h, const float* g, int64_t length, int64_t stride, int64_t n,
                   float* ga, float* gb) {
  float carry[REAL_BLOCK] = {};
  for (int64_t t = length - 1; t >= 0; --t) {
    const int64_t row = t * stride, before = row - stride;
    if (t == 0) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        gb[j] = g[j] + carry[j];
        ga[j] = 0;
      }
      return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const float adjoint = g[row + j] + carry[j];
      gb[row + j] = adjoint;
      ga[row + j] = adjoint * h[before + j];
      carry[j] = a[row + j] * adjoint;
    }
  }
}

// h[t] = λ h[t − 1] + b[t] for n ≤ COMPLEX_BLOCK states, real and imaginary parts side by side. The
// state and λ are float64: rounded to float32, λ^t would turn and shrink by t roundings.
void complex_forward(const float* b, const double* real, const double* imaginary, int64_t length, int64_t stride,
                     int64_t n, float* h) {
  double x[COMPLEX_BLOCK] = {}, y[COMPLEX_BLOCK] = {};
  for (int64_t t = 0; t < length; ++t, b += stride, h += stride)
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const double next = real[j] * x[j] + (b[2 * j] - imaginary[j] * y[j]);
      y[j] = real[j] * y[j] + (b[2 * j + 1] + imaginary[j] * x[j]);
      x[j] = next;
      h[2 * j] = static_cast<float>(x[j]);
      h[2 * j + 1] = static_cast<float>(y[j]);
    }
}

// The adjoint, which turns the other way, and over all steps Σ λ[t + 1] conj h[t] as (real, −imaginary).
void complex_backward(const float* h, const float* g, const double* real, const double* imaginary, int64_t length,
                      int64_t stride, int64_t n, float* gb, double* along, double* across) {
  double x[COMPLEX_BLOCK] = {}, y[COMPLEX_BLOCK] = {}, sum[COMPLEX_BLOCK] = {}, turn[COMPLEX_BLOCK] = {};
  for (int64_t t = length - 1; t >= 0; --t) {
    const int64_t row = t * stride;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const double hx = h[row + 2 * j], hy = h[row + 2 * j + 1];
      sum[j] += x[j] * hx + y[j] * hy;
      turn[j] += x[j] * hy - y[j] * hx;
      const double next = real[j] * x[j] + (g[row + 2 * j] + imaginary[j] * y[j]);
      y[j] = real[j] * y[j] + (g[row + 2 * j + 1] - imaginary[j] * x[j]);
      x[j] = next;
      gb[row + 2 * j] = static_cast<float>(x[j]);
      gb[row + 2 * j + 1] = static_cast<float>(y[j]);
    }
  }
  std::copy(sum, sum + n, along);
  std::copy(turn, turn + n, across);
}

// What one register holds: the compiler splits wider vectors through memory.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

Floats load(const float* from, int64_t n) {
  Floats value = {};
  if (n == LANES)
    std::memcpy(&value, from, sizeof value);
  else
    std::memcpy(&value, from, n * sizeof(float));
  return value;
}

void store(float* to, Floats value, int64_t n) {
  if (n == LANES)
    std::memcpy(to, &value, sizeof value);
  else
    std::memcpy(to, &value, n * sizeof(float));
}

float total(Floats value) {
  float parts[LANES], sum = 0;
  std::memcpy(parts, &value, sizeof value);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < LANES; ++i) sum += parts[i];
  return sum;
}

// e^x within 2 units in the last place, for x in [−87, 88], and the values there outside.
inline Floats exponential(Floats x) {
  const Floats zero = {}, least = zero - 87.0f, most = zero + 88.0f;
  x = x < least ? least : x;
  x = x > most ? most : x;
  // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the lowest bits.
  const Floats shifted = x * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
  const Floats r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Floats p = r * 1.9875691e-4f + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 0.16666665f;
  p = p * r + 0.5f;
  p = p * (r * r) + (r + 1.0f);
  return p * (Floats)(((Integers)shifted << 23) + 0x3f800000);
}

struct Selective {
  const float *x, *delta, *rates, *write, *read, *skip;
  int64_t batch, length, channels, states, steps;
};

constexpr int64_t GROUP = 4;  // Blocks of LANES channels a thread carries through time

int64_t blocks_of(int64_t channels) { return (channels + LANES - 1) / LANES; }
int64_t groups_of(int64_t channels) { return (blocks_of(channels) + GROUP - 1) / GROUP; }

// Channels of one block of a group, and how many of them there are.
struct Block {
  int64_t first, n;
};

int64_t split(const Selective& s, int64_t group, Block* blocks) {
  const int64_t begin = group * GROUP, end = std::min(begin + GROUP, blocks_of(s.channels));
  for (int64_t k = begin; k < end; ++k) blocks[k - begin] = {k * LANES, std::min(LANES, s.channels - k * LANES)};
  return end - begin;
}

// One step of `states` states of a block, h = decay ⊙ h + driven ⊗ B; returns Σ_n h C.
template <bool keep>
inline Floats advance(const Selective& s, const Floats* rates, Floats delta, Floats driven, const float* write,
                      const float* read, const Floats* h, Floats* next, Floats* decay) {
  Floats y = {};
  for (int64_t n = 0; n < s.states; ++n) {
    const Floats factor = exponential(delta * rates[n]);
    const Floats state = factor * h[n] + driven * write[n];
    next[n] = state;
    if (keep)
      decay[n] = factor;
    else
      y += state * read[n];
  }
  return y;
}

std::vector<Floats> transposed_rates(const Selective& s, const Block* blocks, int64_t count) {
  std::vector<Floats> rates(count * s.states);
  for (int64_t k = 0; k < count; ++k)
    for (int64_t n = 0; n < s.states; ++n)
      for (int64_t i = 0; i < LANES; ++i)
        rates[k * s.states + n][i] = i < blocks[k].n ? s.rates[(blocks[k].first + i) * s.states + n] : 0.0f;
  return rates;
}

// `kept` [groups, batch, slabs, GROUP, states, LANES]: the states before every slab, or null.
void selective_forward_group(const Selective& s, int64_t b, int64_t group, float* y, float* kept) {
  Block blocks[GROUP];
  const int64_t count = split(s, group, blocks), size = count * s.states;
  const std::vector<Floats> rates = transposed_rates(s, blocks, count);
  std::vector<Floats> state(size, Floats{});
  const int64_t slabs = (s.length + s.steps - 1) / s.steps;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    if (kept)
      std::memcpy(kept + ((group * s.batch + b) * slabs + slab) * GROUP * s.states * LANES, state.data(),
                  size * sizeof(Floats));
    const int64_t end = std::min((slab + 1) * s.steps, s.length);
    for (int64_t t = slab * s.steps; t < end; ++t) {
      const int64_t row = b * s.length + t;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t at = row * s.channels + blocks[k].first, n = blocks[k].n;
        const Floats x = load(s.x + at, n), delta = load(s.delta + at, n);
        Floats* h = state.data() + k * s.states;
        const Floats out = advance<false>(s, rates.data() + k * s.states, delta, delta * x, s.write + row * s.states,
                                          s.read + row * s.states, h, h, nullptr);
        store(y + at, out + x * load(s.skip + blocks[k].first, n), n);
      }
    }
  }
}

struct SelectiveGradients {
  float *x, *delta, *rates, *write, *read, *skip;
};

// `found.write` and `found.read` [groups, batch, length, states], `found.rates` [batch, states,
// channels] and `found.skip` [batch, channels] are sums over what this thread has seen.
void selective_backward_group(const Selective& s, int64_t b, int64_t group, const float* gradient, const float* kept,
                              const SelectiveGradients& found) {
  Block blocks[GROUP];
  const int64_t count = split(s, group, blocks), size = count * s.states;
  const std::vector<Floats> rates = transposed_rates(s, blocks, count);
  const Floats zero = {};
  std::vector<Floats> h((s.steps + 1) * size), decay(s.steps * size), carry(size, zero), recent(size, zero);
  std::vector<Floats> rates_gradient(size, zero), to_write(s.states), to_read(s.states);
  Floats skip_gradient[GROUP] = {};
  const int64_t slabs = (s.length + s.steps - 1) / s.steps;
  for (int64_t slab = slabs - 1; slab >= 0; --slab) {
    const int64_t begin = slab * s.steps, end = std::min(begin + s.steps, s.length);
    std::memcpy(h.data(), kept + ((group * s.batch + b) * slabs + slab) * GROUP * s.states * LANES,
                size * sizeof(Floats));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = b * s.length + t;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t at = row * s.channels + blocks[k].first, n = blocks[k].n;
        const Floats delta = load(s.delta + at, n);
        Floats* before = h.data() + (t - begin) * size + k * s.states;
        advance<true>(s, rates.data() + k * s.states, delta, delta * load(s.x + at, n), s.write + row * s.states,
                      nullptr, before, before + size, decay.data() + (t - begin) * size + k * s.states);
      }
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      const int64_t row = b * s.length + t;
      const float *write = s.write + row * s.states, *read = s.read + row * s.states;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t at = row * s.channels + blocks[k].first, n = blocks[k].n, own = k * s.states;
        const Floats x = load(s.x + at, n), delta = load(s.delta + at, n), g = load(gradient + at, n);
        const Floats driven = delta * x;
        const Floats *before = h.data() + (t - begin) * size + own, *state = before + size;
        const Floats *factor = decay.data() + (t - begin) * size + own, *rate = rates.data() + own;
        Floats *incoming = carry.data() + own, *to_rates = recent.data() + own;
        Floats driven_gradient = {}, delta_gradient = {};
        for (int64_t m = 0; m < s.states; ++m) {
          const Floats adjoint = incoming[m] + g * read[m];
          to_read[m] = k ? to_read[m] + state[m] * g : state[m] * g;
          to_write[m] = k ? to_write[m] + adjoint * driven : adjoint * driven;
          driven_gradient += adjoint * write[m];
          const Floats earlier = adjoint * factor[m], exponent = earlier * before[m];
          incoming[m] = earlier;
          delta_gradient += exponent * rate[m];
          to_rates[m] += exponent * delta;
        }
        store(found.x + at, driven_gradient * delta + g * load(s.skip + blocks[k].first, n), n);
        store(found.delta + at, delta_gradient + driven_gradient * x, n);
        skip_gradient[k] += g * x;
      }
      float *write_row = found.write + (group * s.batch * s.length + row) * s.states;
      float *read_row = found.read + (group * s.batch * s.length + row) * s.states;
      for (int64_t m = 0; m < s.states; ++m) {
        write_row[m] = total(to_write[m]);
        read_row[m] = total(to_read[m]);
      }
    }
    // One slab's sum at a time, so that a long sequence loses no more digits than a short one.
    for (int64_t i = 0; i < size; ++i) {
      rates_gradient[i] += recent[i];
      recent[i] = zero;
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    store(found.skip + b * s.channels + blocks[k].first, skip_gradient[k], blocks[k].n);
    for (int64_t n = 0; n < s.states; ++n)
      store(found.rates + (b * s.states + n) * s.channels + blocks[k].first, rates_gradient[k * s.states + n],
            blocks[k].n);
  }
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

extern "C" {

// a, b and h [batch, length, width].
void real_scan_forward(const float* a, const float* b, int64_t batch, int64_t length, int64_t width, int64_t threads,
                       float* h) {
  const int64_t blocks = ceil_divide(width, REAL_BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * blocks; ++task) {
    const int64_t first = task % blocks * REAL_BLOCK, at = task / blocks * length * width + first;
    real_forward(a + at, b + at, length, width, std::min(REAL_BLOCK, width - first), h + at);
  }
}

void real_scan_backward(const float* a, const float* h, const float* g, int64_t batch, int64_t length, int64_t width,
                        int64_t threads, float* ga, float* gb) {
  const int64_t blocks = ceil_divide(width, REAL_BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * blocks; ++task) {
    const int64_t first = task % blocks * REAL_BLOCK, at = task / blocks * length * width + first;
    real_backward(a + at, h + at, g + at, length, width, std::min(REAL_BLOCK, width - first), ga + at, gb + at);
  }
}

// b and h [batch, length, states, 2], λ [2, states].
void complex_scan_forward(const float* b, const double* lambda, int64_t batch, int64_t length, int64_t states,
                          int64_t threads, float* h) {
  const int64_t blocks = ceil_divide(states, COMPLEX_BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * blocks; ++task) {
    const int64_t first = task % blocks * COMPLEX_BLOCK, at = 2 * (task / blocks * length * states + first);
    complex_forward(b + at, lambda + first, lambda + states + first, length, 2 * states,
                    std::min(COMPLEX_BLOCK, states - first), h + at);
  }
}

// `sums` [batch, 2, states].
void complex_scan_backward(const float* h, const float* g, const double* lambda, int64_t batch, int64_t length,
                           int64_t states, int64_t threads, float* gb, double* sums) {
  const int64_t blocks = ceil_divide(states, COMPLEX_BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * blocks; ++task) {
    const int64_t first = task % blocks * COMPLEX_BLOCK, b = task / blocks, at = 2 * (b * length * states + first);
    double* along = sums + 2 * b * states + first;
    complex_backward(h + at, g + at, lambda + first, lambda + states + first, length, 2 * states,
                     std::min(COMPLEX_BLOCK, states - first), gb + at, along, along + states);
  }
}

int64_t selective_scan_groups(int64_t channels) { return groups_of(channels); }

int64_t selective_scan_kept(int64_t states) { return GROUP * states * LANES; }

void selective_scan_forward(const float* x, const float* delta, const float* rates, const float* write,
                            const float* read, const float* skip, int64_t batch, int64_t length, int64_t channels,
                            int64_t states, int64_t steps, int64_t threads, float* y, float* kept) {
  const Selective s = {x, delta, rates, write, read, skip, batch, length, channels, states, steps};
  const int64_t groups = groups_of(channels);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * groups; ++task)
    selective_forward_group(s, task / groups, task % groups, y, kept);
}

void selective_scan_backward(const float* x, const float* delta, const float* rates, const float* write,
                             const float* read, const float* skip, int64_t batch, int64_t length, int64_t channels,
                             int64_t states, int64_t steps, int64_t threads, const float* gradient, const float* kept,
                             float* x_gradient, float* delta_gradient, float* rates_gradient, float* write_gradient,
                             float* read_gradient, float* skip_gradient) {
  const Selective s = {x, delta, rates, write, read, skip, batch, length, channels, states, steps};
  const SelectiveGradients found = {x_gradient,     delta_gradient, rates_gradient,
                                    write_gradient, read_gradient,  skip_gradient};
  const int64_t groups = groups_of(channels);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < batch * groups; ++task)
    selective_backward_group(s, task / groups, task % groups, gradient, kept, found);
}
}
