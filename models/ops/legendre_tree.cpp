// The Legendre tree of models/ops/legendre_tree.py for one CPU, float32, chunks of TREE_CHUNK = 64 events.
//
// What torch does in some fifty products over all channels, each through memory, is done here
// channel by channel while the channel is in the cache: x is read once, y written once. Backward
// computes moments and expansions again instead of keeping them. The mathematics, the names and
// the layouts of all matrices are those of the Python module, which is the reference.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

constexpr int kChunk = TREE_CHUNK, kLanes = 16, kVectors = kChunk / kLanes, kLine = 2 * kChunk - 1;

// Levels from here up, nodes of 2,048 events and more, sum in float64.
constexpr int kPreciseLevel = 5;

// Sixteen floats, one AVX-512 register; elsewhere the compiler splits them.
typedef float Vector __attribute__((vector_size(64), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

#if defined(__AVX512F__)
constexpr int kRegisters = 24;
#else
constexpr int kRegisters = 6;
#endif
// Rows of a register tile that is NV vectors wide.
template <int NV> constexpr int rows_of() { return kRegisters / NV < 14 ? kRegisters / NV : 14; }

enum Shape { kFull, kLower, kUpper };

// acc += A[:, 16 KB … 16 KB + 16) B, for the vectors of B that the shape leaves nonzero.
template <int MR, int LO, int HI, int NV>
inline void block(Vector (&acc)[MR][NV], const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    Vector column[NV];
#pragma GCC unroll 8
    for (int v = LO; v < HI; ++v) column[v] = load(b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const float scalar = a[r * lda + k];
#pragma GCC unroll 8
      for (int v = LO; v < HI; ++v) acc[r][v] += scalar * column[v];
    }
  }
}

template <int MR, int NV>
inline void write(const Vector (&acc)[MR][NV], float* c, int64_t ldc) {
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(c + r * ldc + v * kLanes, acc[r][v]);
}

template <int MR, int NV>
inline void read(Vector (&acc)[MR][NV], const float* c, int64_t ldc, bool add) {
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[r][v] = add ? load(c + r * ldc + v * kLanes) : Vector{};
}

// Ask for the next rows while these are worked on: a tile reads a line from each of its rows at a
// time, a pattern that no hardware prefetcher follows.
inline void fetch(const float* a, int64_t lda, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < depth; k += kLanes) __builtin_prefetch(a + r * lda + k);
}

// C [m, 16 NV] (+)= A [m, depth] B [depth, 16 NV], all by rows.
template <int NV>
void product(int64_t m, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
             int64_t ldc, bool add) {
  constexpr int MR = rows_of<NV>();
  int64_t r = 0;
  for (; r + MR <= m; r += MR) {
    Vector acc[MR][NV];
    fetch(a + (r + MR) * lda, lda, m - r - MR < MR ? m - r - MR : MR, depth);
    read<MR, NV>(acc, c + r * ldc, ldc, add);
    block<MR, 0, NV, NV>(acc, a + r * lda, lda, b, ldb, depth);
    write<MR, NV>(acc, c + r * ldc, ldc);
  }
  for (; r < m; ++r) {
    Vector acc[1][NV];
    read<1, NV>(acc, c + r * ldc, ldc, add);
    block<1, 0, NV, NV>(acc, a + r * lda, lda, b, ldb, depth);
    write<1, NV>(acc, c + r * ldc, ldc);
  }
}

// `product` with sums in float64, for the few nodes at the top: what they add to y is the largest,
// and so would be its rounding.
template <int NV>
void precise_product(int64_t m, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                     int64_t ldc, bool add) {
  constexpr int N = NV * kLanes;
  for (int64_t r = 0; r < m; ++r) {
    double acc[N];
    for (int i = 0; i < N; ++i) acc[i] = add ? c[r * ldc + i] : 0.0;
    for (int64_t k = 0; k < depth; ++k) {
      const double scalar = a[r * lda + k];
      for (int i = 0; i < N; ++i) acc[i] += scalar * b[k * ldb + i];
    }
    for (int i = 0; i < N; ++i) c[r * ldc + i] = static_cast<float>(acc[i]);
  }
}

// C [p, 16 NV] += A [m, p]ᵀ B [m, 16 NV].
template <int NV>
void outer(int64_t p, int64_t m, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc);

template <int MR, int NV>
inline void outer_tile(int64_t m, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) {
  Vector acc[MR][NV];
  read<MR, NV>(acc, c, ldc, true);
  for (int64_t k = 0; k < m; ++k) {
    Vector row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = load(b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const float scalar = a[k * lda + r];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] += scalar * row[v];
    }
  }
  write<MR, NV>(acc, c, ldc);
}

template <int NV>
void outer(int64_t p, int64_t m, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) {
  constexpr int MR = NV == 1 ? 16 : (NV == 2 ? 8 : 4);
  // Rows in slabs, so that all tiles find both operands in the first-level cache.
  constexpr int64_t kSlab = 64;
  for (int64_t k = 0; k < m; k += kSlab) {
    const int64_t rows = m - k < kSlab ? m - k : kSlab;
    for (int64_t r = 0; r < p; r += MR)
      outer_tile<MR, NV>(rows, a + k * lda + r, lda, b + k * ldb, ldb, c + r * ldc, ldc);
  }
}

// XᵀY of two chunk arrays [m, 64] where only targets at or after (lower) the source count.
void pair_products(int64_t m, const float* x, const float* y, float* c, Shape shape) {
  constexpr int MR = 4;
  constexpr int64_t kSlab = 64;
  for (int64_t k = 0; k < m; k += kSlab) {
    const int64_t rows = m - k < kSlab ? m - k : kSlab;
    for (int r = 0; r < kChunk; r += MR) {
      const float *a = x + k * kChunk + r, *b = y + k * kChunk;
      float* out = c + r * kChunk;
      const int first = r / kLanes;
      if (shape == kLower) {
        const int skip = first * kLanes;
        switch (first) {
          case 0: outer_tile<MR, 4>(rows, a, kChunk, b, kChunk, out, kChunk); break;
          case 1: outer_tile<MR, 3>(rows, a, kChunk, b + skip, kChunk, out + skip, kChunk); break;
          case 2: outer_tile<MR, 2>(rows, a, kChunk, b + skip, kChunk, out + skip, kChunk); break;
          default: outer_tile<MR, 1>(rows, a, kChunk, b + skip, kChunk, out + skip, kChunk);
        }
      } else {
        switch (first) {
          case 0: outer_tile<MR, 1>(rows, a, kChunk, b, kChunk, out, kChunk); break;
          case 1: outer_tile<MR, 2>(rows, a, kChunk, b, kChunk, out, kChunk); break;
          case 2: outer_tile<MR, 3>(rows, a, kChunk, b, kChunk, out, kChunk); break;
          default: outer_tile<MR, 4>(rows, a, kChunk, b, kChunk, out, kChunk);
        }
      }
    }
  }
}

// Y = X T + W P: products inside chunks and what the expansions add, in one go.
template <int MR, Shape S>
inline void inside_tile(const float* x, int64_t ldx, const float* t, const float* w, int64_t ldw, const float* p,
                        int64_t order, float* y, int64_t ldy) {
  Vector acc[MR][kVectors] = {};
  constexpr int L = kLanes;
  if (S == kLower) {
    block<MR, 0, 4, 4>(acc, x, ldx, t, kChunk, L);
    block<MR, 1, 4, 4>(acc, x + L, ldx, t + L * kChunk, kChunk, L);
    block<MR, 2, 4, 4>(acc, x + 2 * L, ldx, t + 2 * L * kChunk, kChunk, L);
    block<MR, 3, 4, 4>(acc, x + 3 * L, ldx, t + 3 * L * kChunk, kChunk, L);
  } else {
    block<MR, 0, 1, 4>(acc, x, ldx, t, kChunk, L);
    block<MR, 0, 2, 4>(acc, x + L, ldx, t + L * kChunk, kChunk, L);
    block<MR, 0, 3, 4>(acc, x + 2 * L, ldx, t + 2 * L * kChunk, kChunk, L);
    block<MR, 0, 4, 4>(acc, x + 3 * L, ldx, t + 3 * L * kChunk, kChunk, L);
  }
  if (w) block<MR, 0, 4, 4>(acc, w, ldw, p, kChunk, order);
  write<MR, kVectors>(acc, y, ldy);
}

template <Shape S>
void inside(int64_t m, const float* x, int64_t ldx, const float* t, const float* w, int64_t ldw, const float* p,
            int64_t order, float* y, int64_t ldy) {
  constexpr int MR = rows_of<kVectors>();
  int64_t r = 0;
  for (; r + MR <= m; r += MR) {
    fetch(x + (r + MR) * ldx, ldx, m - r - MR < MR ? m - r - MR : MR, kChunk);
    inside_tile<MR, S>(x + r * ldx, ldx, t, w ? w + r * ldw : w, ldw, p, order, y + r * ldy, ldy);
  }
  for (; r < m; ++r)
    inside_tile<1, S>(x + r * ldx, ldx, t, w ? w + r * ldw : w, ldw, p, order, y + r * ldy, ldy);
}

void transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

}  // namespace

extern "C" {

// One level of the tree: nodes, whole pairs of siblings, and the index of its short pair or -1.
struct Level {
  int64_t nodes, pairs, short_index;
};

// One channel's matrices, as _Maps in the Python module: level after level.
struct Maps {
  float *into, *out, *up, *down, *couple;
};

// All channels' matrices: where the first channel's lie, and how far it is from one channel and
// one level to the next.
struct MapArrays {
  float *into, *out, *up, *down, *couple;
  int64_t up_level, down_level, couple_level;
};

struct Problem {
  int64_t channels, rows, chunks, order, depth, source, ragged, threads;
  const Level* levels;
};
}

namespace {

Maps of_channel(const MapArrays& all, int64_t d, int64_t order) {
  const int64_t leaf = kChunk * order, transfer = 2 * order * order;
  return {all.into ? all.into + d * leaf : nullptr, all.out ? all.out + d * leaf : nullptr,
          all.up ? all.up + d * transfer : nullptr, all.down ? all.down + d * transfer : nullptr,
          all.couple ? all.couple + d * order * order : nullptr};
}

// The matrices of one direction, ready for products by rows.
struct Direction {
  const float *into, *into_short;    // [64, K]
  const float *out, *out_short;      // [K, 64]
  const float *up, *up_short;        // [levels][2K, K]
  const float *down, *down_short;    // [levels][K, 2K]
  const float *couple, *couple_short;  // [levels][K, K]
  const float* toeplitz;             // [64, 64]
  Shape shape;
  int64_t source;
};

template <int NK>
struct Channel {
  static constexpr int64_t K = NK * kLanes;
  const Problem& p;

  // First state of a level, for `rows` rows of its nodes.
  int64_t offset(int64_t level) const {
    int64_t nodes = 0;
    for (int64_t l = 0; l < level; ++l) nodes += p.levels[l].nodes;
    return nodes * p.rows * K;
  }
  int64_t states() const { return offset(p.depth); }
  bool even(const Level& v) const { return v.nodes == 2 * v.pairs; }

  // A product of states, with sums that suit the level.
  void states_product(int64_t level, int64_t m, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb,
                      float* c, int64_t ldc, bool add) const {
    const auto run = level >= kPreciseLevel ? precise_product<NK> : product<NK>;
    run(m, depth, a, lda, b, ldb, c, ldc, add);
  }

  void moments(const float* x, const Direction& m, float* z) const {
    const int64_t N = p.chunks, R = p.rows;
    product<NK>(R * N, kChunk, x, kChunk, m.into, K, z, K, false);
    if (p.ragged)
      product<NK>(R, kChunk, x + (N - 1) * kChunk, N * kChunk, m.into_short, K, z + (N - 1) * K, N * K, false);
    for (int64_t l = 0; l + 1 < p.depth; ++l) {
      const Level &v = p.levels[l], &above = p.levels[l + 1];
      const float *below = z + offset(l), *matrix = m.up + l * 2 * K * K;
      float* parents = z + offset(l + 1);
      if (even(v)) {
        states_product(l, R * v.pairs, 2 * K, below, 2 * K, matrix, K, parents, K, false);
        continue;
      }
      for (int64_t r = 0; r < R; ++r) {
        const float* row = below + r * v.nodes * K;
        float* parent = parents + r * above.nodes * K;
        states_product(l, v.pairs, 2 * K, row, 2 * K, matrix, K, parent, K, false);
        if (v.short_index >= 0)
          states_product(l, 1, 2 * K, row + 2 * v.pairs * K, 2 * K, m.up_short + v.short_index * 2 * K * K, K,
                      parent + v.pairs * K, K, false);
        else
          std::memcpy(parent + v.pairs * K, row + (v.nodes - 1) * K, K * sizeof(float));
      }
    }
  }

  // Expansions of `pairs` pairs of siblings from their parents' (or none) and the sources' moments.
  void siblings(int64_t level, int64_t pairs, const float* parent, const float* z, const float* down, const float* couple,
                int64_t source, float* w) const {
    const int64_t target = 1 - source;
    if (parent) {
      states_product(level, pairs, K, parent, K, down, 2 * K, w, 2 * K, false);
      states_product(level, pairs, K, parent, K, down + K, 2 * K, w + K, 2 * K, false);
    } else {
      for (int64_t n = 0; n < pairs; ++n) std::memset(w + (2 * n + source) * K, 0, K * sizeof(float));
    }
    states_product(level, pairs, K, z + source * K, 2 * K, couple, K, w + target * K, 2 * K, parent != nullptr);
  }

  void expansions(const float* z, const Direction& m, float* w) const {
    const int64_t R = p.rows;
    for (int64_t l = p.depth - 1; l >= 0; --l) {
      const Level& v = p.levels[l];
      const bool top = l + 1 == p.depth;
      const int64_t above = top ? 0 : p.levels[l + 1].nodes;
      const float *parents = top ? nullptr : w + offset(l + 1), *down = top ? nullptr : m.down + l * 2 * K * K;
      const float *from = z + offset(l), *couple = m.couple + l * K * K;
      float* to = w + offset(l);
      if (even(v)) {
        siblings(l, R * v.pairs, parents, from, down, couple, m.source, to);
        continue;
      }
      for (int64_t r = 0; r < R; ++r) {
        const float *parent = top ? nullptr : parents + r * above * K, *row = from + r * v.nodes * K;
        float* child = to + r * v.nodes * K;
        siblings(l, v.pairs, parent, row, down, couple, m.source, child);
        const int64_t last = 2 * v.pairs * K;
        if (v.short_index >= 0)
          siblings(l, 1, top ? nullptr : parent + v.pairs * K, row + last,
                   top ? nullptr : m.down_short + v.short_index * 2 * K * K, m.couple_short + v.short_index * K * K,
                   m.source, child + last);
        else
          std::memcpy(child + last, parent + v.pairs * K, K * sizeof(float));
      }
    }
  }

  void output(const float* x, const Direction& m, const float* w, float* y) const {
    const int64_t N = p.chunks, R = p.rows;
    const auto run = m.shape == kLower ? inside<kLower> : inside<kUpper>;
    if (!p.ragged) {
      run(R * N, x, kChunk, m.toeplitz, p.depth ? w : nullptr, K, m.out, K, y, kChunk);
      return;
    }
    for (int64_t r = 0; r < R; ++r) {
      const float* row = x + r * N * kChunk;
      run(N - 1, row, kChunk, m.toeplitz, w + r * N * K, K, m.out, K, y + r * N * kChunk, kChunk);
    }
    const int64_t last = N - 1;
    run(R, x + last * kChunk, N * kChunk, m.toeplitz, p.depth ? w + last * K : nullptr, N * K, m.out_short, K,
        y + last * kChunk, N * kChunk);
  }

  // Sums over rows and nodes of outer products, for whole pairs and for short ones.
  void gradients(const float* z, const float* w, const float* u, const float* v, const MapArrays& whole,
                 const MapArrays& cut, int64_t d, bool decay) const {
    const Maps g = of_channel(whole, d, K), s = of_channel(cut, d, K);
    const int64_t R = p.rows, source = p.source;
    for (int64_t l = 0; l < p.depth; ++l) {
      const Level& level = p.levels[l];
      const bool transfers = decay && l + 1 < p.depth;
      const int64_t above = l + 1 < p.depth ? p.levels[l + 1].nodes : 0;
      const int64_t rows = even(level) ? 1 : R, pairs = even(level) ? R * level.pairs : level.pairs;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t child = offset(l) + r * level.nodes * K, parent = offset(l + 1) + r * above * K;
        one(pairs, child, parent, z, w, u, v, g.couple + l * whole.couple_level,
            transfers ? g.up + l * whole.up_level : nullptr, transfers ? g.down + l * whole.down_level : nullptr,
            source);
        if (level.short_index < 0) continue;
        const int64_t i = level.short_index;
        one(1, child + 2 * level.pairs * K, parent + level.pairs * K, z, w, u, v, s.couple + i * cut.couple_level,
            transfers ? s.up + i * cut.up_level : nullptr, transfers ? s.down + i * cut.down_level : nullptr, source);
      }
    }
  }

  void one(int64_t pairs, int64_t child, int64_t parent, const float* z, const float* w, const float* u,
           const float* v, float* couple, float* up, float* down, int64_t source) const {
    const float *left = z + child, *right = u + child;
    outer<NK>(K, pairs, left + source * K, 2 * K, right + (1 - source) * K, 2 * K, couple, K);
    if (!up) return;
    outer<NK>(2 * K, pairs, left, 2 * K, v + parent, K, up, K);
    outer<NK>(K, pairs, w + parent, K, right, 2 * K, down, 2 * K);
    outer<NK>(K, pairs, w + parent, K, right + K, 2 * K, down + K, 2 * K);
  }
};

// Numbers below 1e-38 count as zeros while this lives: a fast decay over a long block makes such
// numbers by the million, and a processor takes a hundred times as long with each.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

// Scratch of one thread, all directions' turned matrices and states.
struct Scratch {
  float* memory = nullptr;
  int64_t used = 0;
  explicit Scratch(int64_t floats) { memory = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64)); }
  ~Scratch() { std::free(memory); }
  float* take(int64_t floats) {
    float* p = memory + used;
    used += (floats + 15) / 16 * 16;
    return p;
  }
};

void fill_toeplitz(const float* line, float* toeplitz) {
  for (int j = 0; j < kChunk; ++j) std::memcpy(toeplitz + j * kChunk, line + kChunk - 1 - j, kChunk * sizeof(float));
}

int64_t shorts(const Problem& p) {
  int64_t n = 0;
  for (int64_t l = 0; l < p.depth; ++l) n += p.levels[l].short_index >= 0;
  return n;
}

// Copies of a channel's matrices level after level; the backward direction has all transposed.
template <int NK>
Direction gather(const Problem& p, const MapArrays& whole, const MapArrays& cut, int64_t d, const float* line,
                 bool backward, Scratch& scratch) {
  constexpr int64_t K = NK * kLanes;
  const Maps g = of_channel(whole, d, K), s = of_channel(cut, d, K);
  const int64_t lower = p.depth > 1 ? p.depth - 1 : 0, cuts = p.ragged ? shorts(p) : 0;
  const int64_t lower_cuts = cuts ? cuts - (p.levels[p.depth - 1].short_index >= 0) : 0;
  auto turned = [&](const float* m, int64_t rows, int64_t columns) {
    float* to = scratch.take(rows * columns);
    transpose(m, rows, columns, to);
    return to;
  };
  auto stacked = [&](const float* m, int64_t count, int64_t stride, int64_t rows, int64_t columns) {
    float* to = scratch.take(count * rows * columns);
    for (int64_t n = 0; n < count; ++n) {
      if (backward)
        transpose(m + n * stride, rows, columns, to + n * rows * columns);
      else
        std::memcpy(to + n * rows * columns, m + n * stride, rows * columns * sizeof(float));
    }
    return to;
  };
  Direction m = {};
  float* toeplitz = scratch.take(kChunk * kChunk);
  fill_toeplitz(line, toeplitz);
  const bool wrapped = p.source == 1;
  m.toeplitz = backward ? turned(toeplitz, kChunk, kChunk) : toeplitz;
  m.shape = wrapped != backward ? kUpper : kLower;
  m.source = backward ? 1 - p.source : p.source;
  if (!p.depth) return m;
  m.into = backward ? g.out : g.into;
  m.out = turned(backward ? g.into : g.out, kChunk, K);
  m.up = backward ? stacked(g.down, lower, whole.down_level, K, 2 * K) : stacked(g.up, lower, whole.up_level, 2 * K, K);
  m.down = backward ? stacked(g.up, lower, whole.up_level, 2 * K, K) : stacked(g.down, lower, whole.down_level, K, 2 * K);
  m.couple = stacked(g.couple, p.depth, whole.couple_level, K, K);
  if (!p.ragged) return m;
  m.into_short = backward ? s.out : s.into;
  m.out_short = turned(backward ? s.into : s.out, kChunk, K);
  m.up_short = backward ? stacked(s.down, lower_cuts, cut.down_level, K, 2 * K)
                        : stacked(s.up, lower_cuts, cut.up_level, 2 * K, K);
  m.down_short = backward ? stacked(s.up, lower_cuts, cut.up_level, 2 * K, K)
                          : stacked(s.down, lower_cuts, cut.down_level, K, 2 * K);
  m.couple_short = stacked(s.couple, cuts, cut.couple_level, K, K);
  return m;
}

// What tree_forward and tree_backward return.
enum Code { kDone = 0, kUnknownOrder = 1, kNoMemory = 2 };

template <int NK>
Code forward_channels(const Problem& p, const float* x, const float* lines, const MapArrays& whole,
                      const MapArrays& cut, float* y) {
  constexpr int64_t K = NK * kLanes;
  const Channel<NK> channel{p};
  const int64_t size = p.rows * p.chunks * kChunk, states = channel.states();
  const int64_t matrices = (p.depth + shorts(p) + 2) * (5 * K * K + 2 * kChunk * K) + 3 * kChunk * kChunk;
  int starved = 0;
#pragma omp parallel num_threads(p.threads) reduction(+ : starved)
  {
    const FlushDenormals flush;
    Scratch scratch(2 * states + matrices + 4096);
    starved += !scratch.memory;
#pragma omp for schedule(dynamic)
    for (int64_t d = 0; d < p.channels; ++d) {
      if (!scratch.memory) continue;
      scratch.used = 0;
      float *z = scratch.take(states), *w = scratch.take(states);
      const Direction m = gather<NK>(p, whole, cut, d, lines + d * kLine, false, scratch);
      if (p.depth) {
        channel.moments(x + d * size, m, z);
        channel.expansions(z, m, w);
      }
      channel.output(x + d * size, m, w, y + d * size);
    }
  }
  return starved ? kNoMemory : kDone;
}

template <int NK>
Code backward_channels(const Problem& p, const float* x, const float* gradient, const float* lines,
                       const MapArrays& whole, const MapArrays& cut, float* x_gradient, float* line_gradient,
                       const MapArrays& whole_gradient, const MapArrays& cut_gradient, bool decay) {
  constexpr int64_t K = NK * kLanes;
  const Channel<NK> channel{p};
  const int64_t N = p.chunks, R = p.rows, size = R * N * kChunk, states = channel.states();
  const int64_t matrices = 2 * (p.depth + shorts(p) + 2) * (5 * K * K + 2 * kChunk * K) + 6 * kChunk * kChunk;
  int starved = 0;
#pragma omp parallel num_threads(p.threads) reduction(+ : starved)
  {
    const FlushDenormals flush;
    Scratch scratch(4 * states + matrices + 4096);
    starved += !scratch.memory;
#pragma omp for schedule(dynamic)
    for (int64_t d = 0; d < p.channels; ++d) {
      if (!scratch.memory) continue;
      scratch.used = 0;
      const float *xd = x + d * size, *gd = gradient + d * size;
      float *z = scratch.take(states), *w = scratch.take(states), *u = scratch.take(states), *v = scratch.take(states);
      const Direction back = gather<NK>(p, whole, cut, d, lines + d * kLine, true, scratch);
      if (p.depth) {
        channel.moments(gd, back, u);
        channel.expansions(u, back, v);
      }
      channel.output(gd, back, v, x_gradient + d * size);
      float* pairs = scratch.take(kChunk * kChunk);
      std::memset(pairs, 0, kChunk * kChunk * sizeof(float));
      pair_products(R * N, xd, gd, pairs, p.source ? kUpper : kLower);
      float* line = line_gradient + d * kLine;
      std::memset(line, 0, kLine * sizeof(float));
      for (int j = 0; j < kChunk; ++j)
        for (int i = p.source ? 0 : j; i < (p.source ? j : kChunk); ++i) line[kChunk - 1 + i - j] += pairs[j * kChunk + i];
      if (!p.depth) continue;
      const Direction there = gather<NK>(p, whole, cut, d, lines + d * kLine, false, scratch);
      channel.moments(xd, there, z);
      if (decay) {
        channel.expansions(z, there, w);
        const Maps g = of_channel(whole_gradient, d, K), s = of_channel(cut_gradient, d, K);
        const int64_t whole_chunks = p.ragged ? N - 1 : N, rows = p.ragged ? R : 1;
        const int64_t count = p.ragged ? whole_chunks : R * N;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t chunk = r * N;
          outer<NK>(kChunk, count, xd + chunk * kChunk, kChunk, v + chunk * K, K, g.into, K);
          outer<NK>(kChunk, count, gd + chunk * kChunk, kChunk, w + chunk * K, K, g.out, K);
        }
        if (p.ragged) {
          const int64_t last = N - 1;
          outer<NK>(kChunk, R, xd + last * kChunk, N * kChunk, v + last * K, N * K, s.into, K);
          outer<NK>(kChunk, R, gd + last * kChunk, N * kChunk, w + last * K, N * K, s.out, K);
        }
      }
      channel.gradients(z, w, u, v, whole_gradient, cut_gradient, d, decay);
    }
  }
  return starved ? kNoMemory : kDone;
}

}  // namespace

extern "C" {

// x, y [D, R, N, 64]; lines [D, 127]; orders 16, 32, 48 and 64. Returns a Code; after kNoMemory y is not whole.
int tree_forward(const Problem* p, const float* x, const float* lines, const MapArrays* whole, const MapArrays* cut,
                 float* y) {
  switch (p->order) {
    case 16: return forward_channels<1>(*p, x, lines, *whole, *cut, y);
    case 32: return forward_channels<2>(*p, x, lines, *whole, *cut, y);
    case 48: return forward_channels<3>(*p, x, lines, *whole, *cut, y);
    case 64: return forward_channels<4>(*p, x, lines, *whole, *cut, y);
    default: return kUnknownOrder;
  }
}

// Gradients of maps must come as zeros; x_gradient and line_gradient are overwritten.
int tree_backward(const Problem* p, const float* x, const float* gradient, const float* lines, const MapArrays* whole,
                  const MapArrays* cut, float* x_gradient, float* line_gradient, const MapArrays* whole_gradient,
                  const MapArrays* cut_gradient, int decay) {
#define RUN(NK)                                                                                             \
  backward_channels<NK>(*p, x, gradient, lines, *whole, *cut, x_gradient, line_gradient, *whole_gradient, \
                        *cut_gradient, decay != 0)
  switch (p->order) {
    case 16: return RUN(1);
    case 32: return RUN(2);
    case 48: return RUN(3);
    case 64: return RUN(4);
    default: return kUnknownOrder;
  }
#undef RUN
}
}
