// Dropout of models/ops/dropout/dropout.py and the residual sum in one pass, for one CPU in float32.
#include <algorithm>
#include <cstdint>

namespace {

// Elements that one thread masks before it takes the next: their random words stay in the first cache.
constexpr int64_t BLOCK = 2048, WORDS = BLOCK / 4;

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of a counter: word i is known without the words before it.
inline uint64_t word(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// out = y · scale where the draw reaches the threshold, else 0; plus x where there is one.
template <bool SUM>
void mask(const float* y, const float* x, int64_t n, int16_t threshold, float scale, uint64_t seed, int64_t first,
          float* out) {
  alignas(64) uint64_t words[WORDS];
#pragma omp simd
  for (int64_t j = 0; j < WORDS; ++j) words[j] = word(seed, static_cast<uint64_t>(first + j));
  const int16_t* draws = reinterpret_cast<const int16_t*>(words);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float kept = draws[j] >= threshold ? y[j] * scale : 0.0f;
    out[j] = SUM ? x[j] + kept : kept;
  }
}

}  // namespace

extern "C" void dropout(const float* y, const float* x, const double* scale, int64_t seed, int64_t threshold, int64_t n,
                        int64_t threads, float* out) {
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
  const float factor = static_cast<float>(*scale);
  const int16_t least = static_cast<int16_t>(threshold);
#pragma omp parallel for num_threads(threads) if (blocks > 4)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = b * BLOCK, size = std::min(BLOCK, n - at);
    const uint64_t start = static_cast<uint64_t>(seed);
    if (x)
      mask<true>(y + at, x + at, size, least, factor, start, b * WORDS, out + at);
    else
      mask<false>(y + at, nullptr, size, least, factor, start, b * WORDS, out + at);
  }
}
