// The Legendre tree of models/ops/legendre/tree.py for one CPU, float32, chunks of 64 events (CHUNK in geometry.py).
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

constexpr int kChunk = 64, kLanes = 16, kVectors = kChunk / kLanes, kLine = 2 * kChunk - 1;

// Levels from here up, nodes of 2,048 events and more, sum in float64.
constexpr int kPreciseLevel = 5;

// Sixteen floats: one AVX-512 register, elsewhere two of AVX. Not one generic vector there: the compiler
// would split it through memory, five to ten times slower.
#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(64), aligned(4)));
constexpr int kRegisters = 24, kWidestTile = 4;

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
#else
typedef float Half __attribute__((vector_size(32), aligned(4)));
struct Vector {
  Half low, high;
};
// Sixteen registers hold six rows of one Vector; wider products are done column by column.
constexpr int kRegisters = 6, kWidestTile = 1;

inline Vector operator*(float a, Vector b) { return {a * b.low, a * b.high}; }
inline Vector& operator+=(Vector& a, Vector b) {
  a.low += b.low;
  a.high += b.high;
  return a;
}
inline Vector load(const float* p) {
  const Half* halves = reinterpret_cast<const Half*>(p);
  return {halves[0], halves[1]};
}
inline void store(float* p, Vector v) {
  Half* halves = reinterpret_cast<Half*>(p);
  halves[0] = v.low;
  halves[1] = v.high;
}
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
  if constexpr (NV > kWidestTile) {
    for (int v = 0; v < NV; ++v) product<1>(m, depth, a, lda, b + v * kLanes, ldb, c + v * kLanes, ldc, add);
    return;
  }
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
  if constexpr (NV > kWidestTile) {
    for (int v = 0; v < NV; ++v) outer_tile<MR, 1>(m, a, lda, b + v * kLanes, ldb, c + v * kLanes, ldc);
    return;
  }
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
  constexpr int MR = kWidestTile == 1 ? 4 : (NV == 1 ? 16 : (NV == 2 ? 8 : 4));
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
  constexpr int L = kLanes;
  if constexpr (kVectors > kWidestTile) {
    for (int v = 0; v < kVectors; ++v) {
      const int first = S == kLower ? 0 : v, count = S == kLower ? v + 1 : kVectors - v;
      Vector acc[MR][1] = {};
      block<MR, 0, 1, 1>(acc, x + first * L, ldx, t + first * L * kChunk + v * L, kChunk, count * L);
      if (w) block<MR, 0, 1, 1>(acc, w, ldw, p + v * L, kChunk, order);
      write<MR, 1>(acc, y + v * L, ldy);
    }
    return;
  }
  Vector acc[MR][kVectors] = {};
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
  constexpr int MR = rows_of<kVectors < kWidestTile ? kVectors : kWidestTile>();
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

// Products by the vectors in a row of what they write, 1 … 4.
using Product = void (*)(int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool);
using Outer = void (*)(int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t);
constexpr int kMaxVectors = 4;
constexpr Product kProduct[] = {nullptr, product<1>, product<2>, product<3>, product<4>};
constexpr Product kPreciseProduct[] = {nullptr, precise_product<1>, precise_product<2>, precise_product<3>,
                                       precise_product<4>};
constexpr Outer kOuter[] = {nullptr, outer<1>, outer<2>, outer<3>, outer<4>};

}  // namespace

extern "C" {

// One level of the tree: nodes, whole pairs of siblings, the index of its short pair or -1, and the
// moments J ≤ K that a node keeps, a multiple of 16.
struct Level {
  int64_t nodes, pairs, short_index, rank;
};

// All channels' matrices, as Maps in the Python module: where the first channel's lie, and how far
// it is from one level to the next. Rows and columns have K numbers, of which a level's rank counts.
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

constexpr int64_t kMaxDepth = 40;

// One channel's matrices.
struct Maps {
  float *into, *out, *up, *down, *couple;

  Maps(const MapArrays& all, int64_t d, int64_t order) {
    const int64_t leaf = kChunk * order, transfer = 2 * order * order;
    into = all.into ? all.into + d * leaf : nullptr;
    out = all.out ? all.out + d * leaf : nullptr;
    up = all.up ? all.up + d * transfer : nullptr;
    down = all.down ? all.down + d * transfer : nullptr;
    couple = all.couple ? all.couple + d * order * order : nullptr;
  }
};

// The matrices of one direction, ready for products by rows; J is a level's rank, J' the next one's.
struct Direction {
  const float *into, *into_short;                           // [64, J] in rows of K numbers
  const float *out, *out_short;                             // [J, 64]
  const float *up[kMaxDepth], *up_short[kMaxDepth];         // [2J, J']
  const float *down[kMaxDepth], *down_short[kMaxDepth];     // [J', 2J]
  const float *couple[kMaxDepth], *couple_short[kMaxDepth];  // [J, J]
  const float* toeplitz;                                    // [64, 64]
  Shape shape;
  int64_t source;
};

struct Channel {
  const Problem& p;

  int64_t rank(int64_t level) const { return p.levels[level].rank; }
  // First state of a level, for `rows` rows of its nodes.
  int64_t offset(int64_t level) const {
    int64_t numbers = 0;
    for (int64_t l = 0; l < level; ++l) numbers += p.levels[l].nodes * rank(l);
    return numbers * p.rows;
  }
  int64_t states() const { return offset(p.depth); }
  bool even(const Level& v) const { return v.nodes == 2 * v.pairs; }

  // A product of states, `width` numbers a row, with sums that suit the level.
  void states_product(int64_t level, int64_t width, int64_t m, int64_t depth, const float* a, int64_t lda, const float* b,
                      int64_t ldb, float* c, int64_t ldc, bool add) const {
    (level >= kPreciseLevel ? kPreciseProduct : kProduct)[width / kLanes](m, depth, a, lda, b, ldb, c, ldc, add);
  }

  // Visit `columns` things in each of the R rows, f(row, column, count, down): as many at a time as there are columns,
  // or as there are rows, one below the other. Products of few rows would leave most of a register tile empty.
  template <typename F>
  void grid(int64_t columns, F f) const {
    if (columns >= p.rows)
      for (int64_t r = 0; r < p.rows; ++r) f(r, 0, columns, false);
    else
      for (int64_t n = 0; n < columns; ++n) f(0, n, p.rows, true);
  }

  void moments(const float* x, const Direction& m, float* z) const {
    const int64_t N = p.chunks, R = p.rows, J0 = rank(0);
    const Product leaves = kProduct[J0 / kLanes];
    leaves(R * N, kChunk, x, kChunk, m.into, p.order, z, J0, false);
    if (p.ragged)
      leaves(R, kChunk, x + (N - 1) * kChunk, N * kChunk, m.into_short, p.order, z + (N - 1) * J0, N * J0, false);
    for (int64_t l = 0; l + 1 < p.depth; ++l) {
      const Level &v = p.levels[l], &above = p.levels[l + 1];
      const int64_t J = v.rank, wide = above.rank;
      const float* below = z + offset(l);
      float* parents = z + offset(l + 1);
      if (even(v)) {
        states_product(l, wide, R * v.pairs, 2 * J, below, 2 * J, m.up[l], wide, parents, wide, false);
        continue;
      }
      const int64_t row = v.nodes * J, parent_row = above.nodes * wide, last = v.pairs;
      grid(v.pairs, [&](int64_t r, int64_t n, int64_t count, bool down) {
        states_product(l, wide, count, 2 * J, below + r * row + n * 2 * J, down ? row : 2 * J, m.up[l], wide,
                       parents + r * parent_row + n * wide, down ? parent_row : wide, false);
      });
      if (v.short_index >= 0) {
        states_product(l, wide, R, 2 * J, below + last * 2 * J, row, m.up_short[l], wide, parents + last * wide, parent_row,
                       false);
        continue;
      }
      for (int64_t r = 0; r < R; ++r) {
        float* parent = parents + r * parent_row + last * wide;
        std::memcpy(parent, below + (r + 1) * row - J, J * sizeof(float));
        std::memset(parent + J, 0, (wide - J) * sizeof(float));
      }
    }
  }

  // Expansions of `pairs` pairs of siblings from their parents' (or none) and the sources' moments; a pair lies `step`
  // numbers after the one before it, a parent `parent_step`.
  void siblings(int64_t level, int64_t pairs, const float* parent, int64_t parent_step, const float* z, int64_t step,
                const float* down, const float* couple, int64_t source, float* w) const {
    const int64_t target = 1 - source, J = rank(level);
    if (parent) {
      const int64_t wide = rank(level + 1);
      states_product(level, J, pairs, wide, parent, parent_step, down, 2 * J, w, step, false);
      states_product(level, J, pairs, wide, parent, parent_step, down + J, 2 * J, w + J, step, false);
    } else {
      for (int64_t n = 0; n < pairs; ++n) std::memset(w + n * step + source * J, 0, J * sizeof(float));
    }
    states_product(level, J, pairs, J, z + source * J, step, couple, J, w + target * J, step, parent != nullptr);
  }

  void expansions(const float* z, const Direction& m, float* w) const {
    const int64_t R = p.rows;
    for (int64_t l = p.depth - 1; l >= 0; --l) {
      const Level& v = p.levels[l];
      const bool top = l + 1 == p.depth;
      const int64_t J = v.rank, wide = top ? 0 : rank(l + 1), above = top ? 0 : p.levels[l + 1].nodes * wide;
      const float *parents = top ? nullptr : w + offset(l + 1), *from = z + offset(l);
      float* to = w + offset(l);
      if (even(v)) {
        siblings(l, R * v.pairs, parents, wide, from, 2 * J, m.down[l], m.couple[l], m.source, to);
        continue;
      }
      const int64_t row = v.nodes * J, last = v.pairs * 2 * J;
      const float* cut = top ? nullptr : parents + v.pairs * wide;
      grid(v.pairs, [&](int64_t r, int64_t n, int64_t count, bool down) {
        const int64_t place = r * row + n * 2 * J;
        siblings(l, count, top ? nullptr : parents + r * above + n * wide, down ? above : wide, from + place,
                 down ? row : 2 * J, m.down[l], m.couple[l], m.source, to + place);
      });
      if (v.short_index >= 0)
        siblings(l, R, cut, above, from + last, row, m.down_short[l], m.couple_short[l], m.source, to + last);
      else
        for (int64_t r = 0; r < R; ++r) std::memcpy(to + r * row + last, cut + r * above, J * sizeof(float));
    }
  }

  void output(const float* x, const Direction& m, const float* w, float* y) const {
    const int64_t N = p.chunks, R = p.rows, J0 = p.depth ? rank(0) : 0;
    const auto run = m.shape == kLower ? inside<kLower> : inside<kUpper>;
    if (!p.ragged) {
      run(R * N, x, kChunk, m.toeplitz, p.depth ? w : nullptr, J0, m.out, J0, y, kChunk);
      return;
    }
    grid(N - 1, [&](int64_t r, int64_t n, int64_t count, bool down) {
      const int64_t chunk = r * N + n, step = down ? N : 1;
      run(count, x + chunk * kChunk, step * kChunk, m.toeplitz, w + chunk * J0, step * J0, m.out, J0, y + chunk * kChunk,
          step * kChunk);
    });
    const int64_t last = N - 1;
    run(R, x + last * kChunk, N * kChunk, m.toeplitz, p.depth ? w + last * J0 : nullptr, N * J0, m.out_short, J0,
        y + last * kChunk, N * kChunk);
  }

  // Gradients of a chunk's matrices: of Φ_in from x and the reactions v, of Φ_out from ∂y and the expansions w.
  void leaf_gradients(const float* x, const float* gradient, const float* w, const float* v, const Maps& whole,
                      const Maps& cut) const {
    const int64_t N = p.chunks, R = p.rows, J0 = rank(0), K = p.order;
    const Outer run = kOuter[J0 / kLanes];
    if (!p.ragged) {
      run(kChunk, R * N, x, kChunk, v, J0, whole.into, K);
      run(kChunk, R * N, gradient, kChunk, w, J0, whole.out, K);
      return;
    }
    grid(N - 1, [&](int64_t r, int64_t n, int64_t count, bool down) {
      const int64_t chunk = r * N + n, step = down ? N : 1;
      run(kChunk, count, x + chunk * kChunk, step * kChunk, v + chunk * J0, step * J0, whole.into, K);
      run(kChunk, count, gradient + chunk * kChunk, step * kChunk, w + chunk * J0, step * J0, whole.out, K);
    });
    const int64_t last = N - 1;
    run(kChunk, R, x + last * kChunk, N * kChunk, v + last * J0, N * J0, cut.into, K);
    run(kChunk, R, gradient + last * kChunk, N * kChunk, w + last * J0, N * J0, cut.out, K);
  }

  // Sums over rows and nodes of outer products, for whole pairs and for short ones.
  void gradients(const float* z, const float* w, const float* u, const float* v, const MapArrays& whole,
                 const MapArrays& cut, int64_t d, bool decay) const {
    const Maps g(whole, d, p.order), s(cut, d, p.order);
    const int64_t R = p.rows;
    for (int64_t l = 0; l < p.depth; ++l) {
      const Level& level = p.levels[l];
      const bool transfers = decay && l + 1 < p.depth;
      const int64_t J = level.rank, wide = l + 1 < p.depth ? rank(l + 1) : 0;
      const int64_t row = level.nodes * J, above = l + 1 < p.depth ? p.levels[l + 1].nodes * wide : 0;
      const int64_t first = offset(l), parents = offset(l + 1);
      float *couple = g.couple + l * whole.couple_level, *up = transfers ? g.up + l * whole.up_level : nullptr,
            *down = transfers ? g.down + l * whole.down_level : nullptr;
      if (even(level)) {
        one(l, R * level.pairs, first, 2 * J, parents, wide, z, w, u, v, couple, up, down);
        continue;
      }
      grid(level.pairs, [&](int64_t r, int64_t n, int64_t count, bool below) {
        one(l, count, first + r * row + n * 2 * J, below ? row : 2 * J, parents + r * above + n * wide, below ? above : wide, z,
            w, u, v, couple, up, down);
      });
      if (level.short_index < 0) continue;
      const int64_t i = level.short_index;
      one(l, R, first + level.pairs * 2 * J, row, parents + level.pairs * wide, above, z, w, u, v,
          s.couple + i * cut.couple_level, transfers ? s.up + i * cut.up_level : nullptr,
          transfers ? s.down + i * cut.down_level : nullptr);
    }
  }

  // `up` is [2, K, K], `down` [K, 2, K], of which each block's first J or J' rows and columns count; steps as in `siblings`.
  void one(int64_t l, int64_t pairs, int64_t child, int64_t step, int64_t parent, int64_t parent_step, const float* z,
           const float* w, const float* u, const float* v, float* couple, float* up, float* down) const {
    const int64_t K = p.order, J = rank(l);
    const float *moments = z + child, *reactions = u + child;
    const Outer narrow = kOuter[J / kLanes];
    narrow(J, pairs, moments + p.source * J, step, reactions + (1 - p.source) * J, step, couple, K);
    if (!up) return;
    const int64_t wide = rank(l + 1);
    for (int64_t side = 0; side < 2; ++side) {
      kOuter[wide / kLanes](J, pairs, moments + side * J, step, v + parent, parent_step, up + side * K * K, K);
      narrow(wide, pairs, w + parent, parent_step, reactions + side * J, step, down + side * K, 2 * K);
    }
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

// Numbers of all matrices of one direction, each rounded up to whole lines.
int64_t direction_numbers(const Problem& p) {
  const int64_t K = p.order;
  return 2 * (p.depth + 1) * (5 * K * K + 2 * kChunk * K) + 2 * kChunk * kChunk + 1024;
}

// `blocks_down` × `blocks_across` blocks of rows × columns numbers out of K × K ones, side by side without gaps; or
// the transpose of that.
const float* compact(const float* m, int64_t K, int64_t blocks_down, int64_t rows, int64_t blocks_across, int64_t columns,
                     bool turn, Scratch& scratch) {
  const int64_t height = blocks_down * rows, width = blocks_across * columns;
  float* to = scratch.take(height * width);
  for (int64_t i = 0; i < blocks_down; ++i)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < blocks_across; ++j) {
        const float* from = m + (i * K + r) * blocks_across * K + j * K;
        if (!turn)
          std::memcpy(to + (i * rows + r) * width + j * columns, from, columns * sizeof(float));
        else
          for (int64_t c = 0; c < columns; ++c) to[(j * columns + c) * height + i * rows + r] = from[c];
      }
  return to;
}

// Copies of a channel's matrices level after level; the backward direction has all transposed.
Direction gather(const Problem& p, const MapArrays& whole, const MapArrays& cut, int64_t d, const float* line,
                 bool backward, Scratch& scratch) {
  const int64_t K = p.order;
  const Maps g(whole, d, K), s(cut, d, K);
  Direction m = {};
  float* toeplitz = scratch.take(kChunk * kChunk);
  fill_toeplitz(line, toeplitz);
  const bool wrapped = p.source == 1;
  if (backward) {
    float* turned = scratch.take(kChunk * kChunk);
    transpose(toeplitz, kChunk, kChunk, turned);
    toeplitz = turned;
  }
  m.toeplitz = toeplitz;
  m.shape = wrapped != backward ? kUpper : kLower;
  m.source = backward ? 1 - p.source : p.source;
  if (!p.depth) return m;
  const int64_t J0 = p.levels[0].rank;
  m.into = backward ? g.out : g.into;
  m.out = compact(backward ? g.into : g.out, K, 1, kChunk, 1, J0, true, scratch);
  if (p.ragged) {
    m.into_short = backward ? s.out : s.into;
    m.out_short = compact(backward ? s.into : s.out, K, 1, kChunk, 1, J0, true, scratch);
  }
  for (int64_t l = 0; l < p.depth; ++l) {
    const int64_t J = p.levels[l].rank, i = p.levels[l].short_index;
    const bool below_top = l + 1 < p.depth, short_too = i >= 0;
    m.couple[l] = compact(g.couple + l * whole.couple_level, K, 1, J, 1, J, backward, scratch);
    if (short_too) m.couple_short[l] = compact(s.couple + i * cut.couple_level, K, 1, J, 1, J, backward, scratch);
    if (!below_top) continue;
    const int64_t wide = p.levels[l + 1].rank;
    // Backward, moments go up by the transposed downward matrices and the other way round.
    auto up = [&](float* up, float* down) {
      return backward ? compact(down, K, 1, wide, 2, J, true, scratch) : compact(up, K, 2, J, 1, wide, false, scratch);
    };
    auto down = [&](float* up, float* down) {
      return backward ? compact(up, K, 2, J, 1, wide, true, scratch) : compact(down, K, 1, wide, 2, J, false, scratch);
    };
    m.up[l] = up(g.up + l * whole.up_level, g.down + l * whole.down_level);
    m.down[l] = down(g.up + l * whole.up_level, g.down + l * whole.down_level);
    if (!short_too) continue;
    m.up_short[l] = up(s.up + i * cut.up_level, s.down + i * cut.down_level);
    m.down_short[l] = down(s.up + i * cut.up_level, s.down + i * cut.down_level);
  }
  return m;
}

// What tree_forward and tree_backward return.
enum Code { kDone = 0, kUnknownOrder = 1, kNoMemory = 2 };

bool known(const Problem& p) {
  bool fits = p.order > 0 && p.order % kLanes == 0 && p.order <= kMaxVectors * kLanes && p.depth <= kMaxDepth;
  for (int64_t l = 0; l < p.depth; ++l) {
    const int64_t J = p.levels[l].rank, least = l ? p.levels[l - 1].rank : kLanes;
    fits = fits && J % kLanes == 0 && J >= least && J <= p.order;
  }
  return fits;
}

Code forward_channels(const Problem& p, const float* x, const float* lines, const MapArrays& whole,
                      const MapArrays& cut, float* y) {
  const Channel channel{p};
  const int64_t size = p.rows * p.chunks * kChunk, states = channel.states();
  int starved = 0;
#pragma omp parallel num_threads(p.threads) reduction(+ : starved)
  {
    const FlushDenormals flush;
    Scratch scratch(2 * states + direction_numbers(p));
    starved += !scratch.memory;
#pragma omp for schedule(dynamic)
    for (int64_t d = 0; d < p.channels; ++d) {
      if (!scratch.memory) continue;
      scratch.used = 0;
      float *z = scratch.take(states), *w = scratch.take(states);
      const Direction m = gather(p, whole, cut, d, lines + d * kLine, false, scratch);
      if (p.depth) {
        channel.moments(x + d * size, m, z);
        channel.expansions(z, m, w);
      }
      channel.output(x + d * size, m, w, y + d * size);
    }
  }
  return starved ? kNoMemory : kDone;
}

Code backward_channels(const Problem& p, const float* x, const float* gradient, const float* lines,
                       const MapArrays& whole, const MapArrays& cut, float* x_gradient, float* line_gradient,
                       const MapArrays& whole_gradient, const MapArrays& cut_gradient, bool decay) {
  const Channel channel{p};
  const int64_t N = p.chunks, R = p.rows, size = R * N * kChunk, states = channel.states();
  int starved = 0;
#pragma omp parallel num_threads(p.threads) reduction(+ : starved)
  {
    const FlushDenormals flush;
    Scratch scratch(4 * states + 2 * direction_numbers(p) + kChunk * kChunk);
    starved += !scratch.memory;
#pragma omp for schedule(dynamic)
    for (int64_t d = 0; d < p.channels; ++d) {
      if (!scratch.memory) continue;
      scratch.used = 0;
      const float *xd = x + d * size, *gd = gradient + d * size;
      float *z = scratch.take(states), *w = scratch.take(states), *u = scratch.take(states), *v = scratch.take(states);
      const Direction back = gather(p, whole, cut, d, lines + d * kLine, true, scratch);
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
      const Direction there = gather(p, whole, cut, d, lines + d * kLine, false, scratch);
      channel.moments(xd, there, z);
      if (decay) {
        channel.expansions(z, there, w);
        channel.leaf_gradients(xd, gd, w, v, Maps(whole_gradient, d, p.order), Maps(cut_gradient, d, p.order));
      }
      channel.gradients(z, w, u, v, whole_gradient, cut_gradient, d, decay);
    }
  }
  return starved ? kNoMemory : kDone;
}

}  // namespace

extern "C" {

// x, y [D, R, N, 64]; lines [D, 127]; orders 16, 32, 48 and 64, ranks multiples of 16 that never fall upwards. Return a
// Code; after kNoMemory the results are not whole.
int tree_forward(const Problem* p, const float* x, const float* lines, const MapArrays* whole, const MapArrays* cut,
                 float* y) {
  return known(*p) ? forward_channels(*p, x, lines, *whole, *cut, y) : kUnknownOrder;
}

// Gradients of maps must come as zeros; x_gradient and line_gradient are overwritten.
int tree_backward(const Problem* p, const float* x, const float* gradient, const float* lines, const MapArrays* whole,
                  const MapArrays* cut, float* x_gradient, float* line_gradient, const MapArrays* whole_gradient,
                  const MapArrays* cut_gradient, int decay) {
  if (!known(*p)) return kUnknownOrder;
  return backward_channels(*p, x, gradient, lines, *whole, *cut, x_gradient, line_gradient, *whole_gradient,
                           *cut_gradient, decay != 0);
}
}
