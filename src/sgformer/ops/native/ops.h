// Ops on a CPU in one pass each, where PyTorch takes dozens.
//
// Maps are in float32 or bfloat16 with channels last; everything is computed in float32. Each function takes one array
// of 64-bit integers: addresses, sizes and strides, in the order in which its first lines read them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;
constexpr int kRows = 24;   // queries that go through all keys together
constexpr int kTile = 256;  // keys whose weights are kept at a time, where nothing else is wanted of them

typedef float Vec __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint16_t LooseHalves __attribute__((vector_size(32), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

inline Vec all(float x) { return x - Vec{}; }
inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<LooseVec*>(p) = x; }
inline Vec load(const BFloat16* p) {
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const LooseHalves*>(p), Bits) << 16);
}
inline void store(BFloat16* p, Vec x) {  // to the nearest, ties to even
  const Bits bits = (Bits)x;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *reinterpret_cast<LooseHalves*>(p) = __builtin_convertvector(rounded, Halves);
}
inline float number(float x) { return x; }
inline float number(BFloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float y;
  __builtin_memcpy(&y, &bits, sizeof y);
  return y;
}

inline Vec larger(Vec x, Vec y) { return x > y ? x : y; }

constexpr Bits kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// All lanes by halves: four steps, where one lane after the other takes sixteen.
template <typename Join>
inline float joined(Vec x, Join join) {
#pragma GCC unroll 4
  for (uint32_t step = kLanes / 2; step > 0; step /= 2) x = join(x, __builtin_shuffle(x, kLane ^ step));
  return x[0];
}

inline float sum(Vec x) {
  return joined(x, [](Vec a, Vec b) { return a + b; });
}
inline float largest(Vec x) { return joined(x, larger); }

// 2**x for x <= 0; no less than 2**-100, so that what is multiplied with it keeps its full precision: less takes a
// processor a hundred times as long. Coefficients: Cephes, exp2f.
inline Vec exp2(Vec x) {
  x = larger(all(-100.f), x);
  const Vec shifted = x + 12582912.f;  // 1.5 * 2**23: the integer next to x is in the last bits
  const Vec f = x - (shifted - 12582912.f);
  Vec y = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
  y = y * f + 9.618437357674640e-3f;
  y = y * f + 5.550332471162809e-2f;
  y = y * f + 2.402264791363012e-1f;
  y = y * f + 6.931472028550421e-1f;
  y = y * f + 1.0f;
  return (Vec)((Bits)y + ((Bits)shifted << 23));
}

// The share of a standard normal distribution below x, off by less than 1e-7, from `bell`, which is exp(-x * x / 2).
// Source: Abramowitz and Stegun, formula 7.1.26.
inline Vec normal_below(Vec x, Vec bell) {
  const Vec magnitude = x < 0.f ? -x : x;
  const Vec t = 1.0f / (1.0f + 0.2316418882663604f * magnitude);
  Vec tail = t * 0.5307027145f - 0.7265760135f;
  tail = tail * t + 0.7107068705f;
  tail = tail * t - 0.142248368f;
  tail = tail * t + 0.127414796f;
  tail = tail * t * bell;
  return x < 0.f ? tail : 1.0f - tail;
}

inline Vec bell(Vec x) { return exp2(x * x * -0.7213475204444817f); }

// The exact GELU, off by less than 1e-7 of x.
inline Vec gelu(Vec x) { return x * normal_below(x, bell(x)); }

// Memory of a thread that is kept from call to call, since fresh memory has to be cleared by the system.
float* scratch(int which, size_t count) {
  static thread_local std::vector<float> kept[6];
  if (kept[which].size() < count) kept[which].resize(count);
  return kept[which].data();
}

// Turns over a tile of 16 x 16 numbers.
inline void turn(Vec (&x)[kLanes]) {
#pragma GCC unroll 4
  for (uint32_t step = 1; step < kLanes; step *= 2) {
    const Bits upper = (Bits)((kLane & step) != 0);  // all ones where the lane is in an upper half
    const Bits low = (kLane & ~upper) | ((kLane - step + kLanes) & upper);
    const Bits high = ((kLane + step) & ~upper) | ((kLane + kLanes) & upper);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kLanes; ++i) {
      if (i & step) continue;
      const Vec a = x[i], b = x[i + step];
      x[i] = __builtin_shuffle(a, b, low);
      x[i + step] = __builtin_shuffle(a, b, high);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- attention

// Keys and values of a head: 64 keys at a time, turned over, and the values as they are.
template <int D>
struct Keys {
  int count;
  float* turned;
  float* values;

  // `first` is the first of the two places of scratch that they take.
  template <typename T, typename KeyAt, typename ValueAt>
  Keys(T, int count, KeyAt key, ValueAt value, int first = 0) : count(count) {
    const int padded = (count + 63) / 64 * 64;
    turned = scratch(first, size_t(padded) * D);
    values = scratch(first + 1, size_t(padded) * D);
    for (int m = 0; m < padded; m += kLanes)
      for (int d = 0; d < D; d += kLanes) {
        Vec tile[kLanes] = {};
        for (int i = 0; i < std::min(kLanes, count - m); ++i) {
          tile[i] = load(key(m + i) + d);
          store(values + size_t(m + i) * D + d, load(value(m + i) + d));
        }
        turn(tile);
        for (int i = 0; i < kLanes; ++i) store(turned + size_t(m / 64) * 64 * D + (d + i) * 64 + m % 64, tile[i]);
      }
  }
};

template <int D, int R, int V>
inline void score(const float* q, const float* keys, float* scores, int stride) {
  Vec sums[R][V] = {};
  for (int d = 0; d < D; ++d) {
    Vec k[V];
    for (int v = 0; v < V; ++v) k[v] = load(keys + d * 64 + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec query = all(q[r * D + d]);
      for (int v = 0; v < V; ++v) sums[r][v] += query * k[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(scores + r * stride + v * kLanes, sums[r][v]);
}

template <int D, int R>
inline void score(int vectors, const float* q, const float* keys, float* scores, int stride) {
  switch (vectors) {
    case 1: return score<D, R, 1>(q, keys, scores, stride);
    case 2: return score<D, R, 2>(q, keys, scores, stride);
    case 3: return score<D, R, 3>(q, keys, scores, stride);
    default: return score<D, R, 4>(q, keys, scores, stride);
  }
}

// Scores of some rows with all keys from `start` on, rounded up to 64.
template <int D>
inline void scores_of(int rows, const float* q, const Keys<D>& keys, int start, int count, float* scores, int stride) {
  for (int m = 0; m < count; m += 64) {
    const float* panel = keys.turned + size_t(start + m) * D;
    const int wide = std::min(4, (count - m + kLanes - 1) / kLanes);
    int r = 0;
    for (; r + 6 <= rows; r += 6) score<D, 6>(wide, q + r * D, panel, scores + r * stride + m, stride);
    for (; r + 3 <= rows; r += 3) score<D, 3>(wide, q + r * D, panel, scores + r * stride + m, stride);
    for (; r < rows; ++r) score<D, 1>(wide, q + r * D, panel, scores + r * stride + m, stride);
  }
}

// Adds weighted sums of values; a weight lies `next` after that of the value before, and `stride` after that of the row
// before.
template <int D, int R>
inline void weigh(int count, const float* weights, int stride, int next, const float* values, float* out) {
  constexpr int V = D / kLanes;
  Vec sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = load(out + r * D + v * kLanes);
  for (int m = 0; m < count; ++m) {
    Vec value[V];
    for (int v = 0; v < V; ++v) value[v] = load(values + m * D + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec weight = all(weights[r * stride + m * next]);
      for (int v = 0; v < V; ++v) sums[r][v] += weight * value[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * D + v * kLanes, sums[r][v]);
}

template <int D>
inline void weigh_rows(int rows, int count, const float* weights, int stride, int next, const float* values, float* out) {
  int r = 0;
  for (; r + 12 <= rows; r += 12) weigh<D, 12>(count, weights + r * stride, stride, next, values, out + r * D);
  for (; r + 4 <= rows; r += 4) weigh<D, 4>(count, weights + r * stride, stride, next, values, out + r * D);
  for (; r < rows; ++r) weigh<D, 1>(count, weights + r * stride, stride, next, values, out + r * D);
}

// Attention of some queries to all keys of a head; adds what each key receives from them to `received`, if given.
template <int D, typename QueryAt, typename Put>
void attend(int count, QueryAt query, const Keys<D>& keys, float scale, Put put, double* received) {
  const int M = keys.count, tile = received ? (M + 63) / 64 * 64 : kTile;
  float* weights = scratch(2, size_t(kRows) * tile);
  alignas(64) float q[kRows * D], out[kRows * D], total[kRows], maximum[kRows];
  for (int first = 0; first < count; first += kRows) {
    const int rows = std::min(kRows, count - first);
    for (int r = 0; r < rows; ++r) {
      for (int d = 0; d < D; d += kLanes) {
        store(q + r * D + d, load(query(first + r) + d) * (scale * 1.4426950408889634f));
        store(out + r * D + d, Vec{});
      }
      total[r] = 0;
      maximum[r] = -INFINITY;
    }
    for (int start = 0; start < M; start += tile) {
      const int some = std::min(tile, M - start), vectors = (some + kLanes - 1) / kLanes;
      scores_of<D>(rows, q, keys, start, some, weights, tile);
      for (int r = 0; r < rows; ++r) {
        float* row = weights + r * tile;
        for (int m = some; m < vectors * kLanes; ++m) row[m] = -INFINITY;
        Vec most = load(row);
        for (int v = 1; v < vectors; ++v) most = larger(most, load(row + v * kLanes));
        const float now = std::max(maximum[r], largest(most));
        Vec added = {};
        for (int v = 0; v < vectors; ++v) {
          const Vec weight = exp2(load(row + v * kLanes) - now);
          store(row + v * kLanes, weight);
          added += weight;
        }
        if (start > 0 && now > maximum[r]) {
          const Vec less = exp2(all(maximum[r] - now));
          total[r] *= less[0];
          for (int d = 0; d < D; d += kLanes) store(out + r * D + d, load(out + r * D + d) * less);
        }
        total[r] += sum(added);
        maximum[r] = now;
      }
      weigh_rows<D>(rows, some, weights, tile, 1, keys.values + size_t(start) * D, out);
    }
    for (int r = 0; r < rows; ++r) {
      total[r] = 1.0f / total[r];
      for (int d = 0; d < D; d += kLanes) put(first + r, d, load(out + r * D + d) * total[r]);
    }
    if (received)
      for (int m = 0; m < M; m += kLanes) {
        Vec some = {};
        for (int r = 0; r < rows; ++r) some += load(weights + r * tile + m) * total[r];
        for (int i = 0; i < std::min(kLanes, M - m); ++i) received[m + i] += some[i];
      }
  }
}

template <int D, typename T>
void attention(const int64_t* a, double scale) {
  const T *q = reinterpret_cast<T*>(a[0]), *k = reinterpret_cast<T*>(a[1]), *v = reinterpret_cast<T*>(a[2]);
  T* out = reinterpret_cast<T*>(a[3]);
  float* key_mean = reinterpret_cast<float*>(a[4]);  // may be null
  const int64_t B = a[5], heads = a[6], N = a[7], M = a[8], threads = a[9];
  const int64_t *of_q = a + 10, *of_k = a + 13, *of_v = a + 16, *of_out = a + 19;  // image, head, token
  int64_t parts = 1;
  if (threads > 1 && B * heads % threads) parts = std::min((2 * threads + B * heads - 1) / (B * heads), (N + 63) / 64);
  const int64_t step = ((N + parts - 1) / parts + kRows - 1) / kRows * kRows;
  std::vector<double> received(key_mean ? B * heads * parts * M : 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * heads * parts; ++item) {
    const int64_t b = item / (heads * parts), h = item / parts % heads, begin = item % parts * step;
    const T *qs = q + b * of_q[0] + h * of_q[1] + begin * of_q[2], *ks = k + b * of_k[0] + h * of_k[1];
    const T* vs = v + b * of_v[0] + h * of_v[1];
    T* outs = out + b * of_out[0] + h * of_out[1] + begin * of_out[2];
    const Keys<D> keys(
        T{}, int(M), [=](int m) { return ks + m * of_k[2]; }, [=](int m) { return vs + m * of_v[2]; });
    attend<D>(
        int(std::clamp<int64_t>(N - begin, 0, step)), [=](int n) { return qs + n * of_q[2]; }, keys, float(scale),
        [=](int n, int d, Vec x) { store(outs + n * of_out[2] + d, x); },
        key_mean ? received.data() + item * M : nullptr);
  }
  if (key_mean)
    for (int64_t b = 0; b < B; ++b)
      for (int64_t m = 0; m < M; ++m) {
        double total = 0;
        for (int64_t i = 0; i < heads * parts; ++i) total += received[(b * heads * parts + i) * M + m];
        key_mean[b * M + m] = float(total / double(heads * N));
      }
}

template <int D, typename T>
void windows(const int64_t* a, double scale) {
  const T* qkv = reinterpret_cast<T*>(a[0]);
  T* out = reinterpret_cast<T*>(a[1]);
  float* significance = reinterpret_cast<float*>(a[2]);
  const float* key_mean = reinterpret_cast<float*>(a[3]);  // of coarse tokens, if halves are to be averaged; or null
  const int64_t h = a[4], w = a[5], side = a[6];            // of their grid, and of the square of one
  const int64_t B = a[7], H = a[8], W = a[9], heads = a[10], size = a[11], threads = a[12];
  const int64_t *of_map = a + 13, *of_out = a + 16;  // image, row, token
  const int64_t rows = (H + size - 1) / size, columns = (W + size - 1) / size;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * rows * columns; ++item) {
    const int64_t b = item / (rows * columns), y = item / columns % rows * size, x = item % columns * size;
    const int wide = int(std::min(size, W - x)), count = int(std::min(size, H - y)) * wide;
    std::vector<double> received(count);
    for (int64_t head = 0; head < heads; ++head) {
      const auto at = [=](int part, int n) {
        return qkv + b * of_map[0] + (y + n / wide) * of_map[1] + (x + n % wide) * of_map[2] + (part * heads + head) * D;
      };
      const Keys<D> keys(T{}, count, [=](int n) { return at(1, n); }, [=](int n) { return at(2, n); });
      T* outs = out + b * of_out[0] + y * of_out[1] + x * of_out[2] + head * D;
      attend<D>(
          count, [=](int n) { return at(0, n); }, keys, float(scale),
          [=](int n, int d, Vec found) { store(outs + n / wide * of_out[1] + n % wide * of_out[2] + d, found); },
          received.data());
    }
    for (int n = 0; n < count; ++n) {
      const int64_t v = y + n / wide, u = x + n % wide;
      const float local = float(received[n] / double(heads));
      significance[(b * H + v) * W + u] =
          key_mean ? (key_mean[(b * h + v / side) * w + u / side] * float(h * w) + local) / 2 : local;
    }
  }
}

// ------------------------------------------------------------------------------------------- depthwise convolution

template <int P, typename T>
inline void convolve_pixels(const T* const (&x)[3][6], const float* weights, const float* bias, const T* const (&more)[4],
                            bool with_gelu, T* out, int64_t stride, int64_t c) {
  for (int64_t i = 0; i < c; i += kLanes) {
    Vec sums[P];
    for (int p = 0; p < P; ++p) sums[p] = load(bias + i);
    for (int row = 0; row < 3; ++row) {
      Vec in[P + 2];
      for (int p = 0; p < P + 2; ++p) in[p] = load(x[row][p] + i);
      for (int tap = 0; tap < 3; ++tap) {
        const Vec weight = load(weights + (3 * row + tap) * c + i);
        for (int p = 0; p < P; ++p) sums[p] += weight * in[p + tap];
      }
    }
    for (int p = 0; p < P; ++p) {
      Vec y = more[0] ? sums[p] + load(more[p] + i) : sums[p];
      store(out + p * stride + i, with_gelu ? gelu(y) : y);
    }
  }
}

template <typename T>
void depthwise(const int64_t* a) {
  const T *x = reinterpret_cast<T*>(a[0]), *weight = reinterpret_cast<T*>(a[1]), *of_bias = reinterpret_cast<T*>(a[2]);
  const T* more = reinterpret_cast<T*>(a[3]);  // a map that is added; may be null
  T* out = reinterpret_cast<T*>(a[4]);
  const int64_t B = a[5], H = a[6], W = a[7], c = a[8], with_gelu = a[9], threads = a[10];
  const int64_t *of_x = a + 11, *of_more = a + 14;  // image, row, token
  const int64_t above = a[17], below = a[18];        // rows that are there beyond the map
  float* weights = scratch(3, size_t(c) * 11);
  float *bias = weights + 9 * c, *zeros = bias + c;
  for (int64_t i = 0; i < c; ++i) {
    for (int tap = 0; tap < 9; ++tap) weights[tap * c + i] = number(weight[i * 9 + tap]);
    bias[i] = number(of_bias[i]);
    zeros[i] = 0;
  }
  const T* nothing = reinterpret_cast<T*>(zeros);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * H; ++item) {
    const int64_t b = item / H, y = item % H;
    for (int64_t left = 0; left < W; left += 4) {
      const T *around[3][6], *added[4] = {};
      for (int row = 0; row < 3; ++row)
        for (int p = 0; p < 6; ++p) {
          const int64_t v = y + row - 1, u = left + p - 1;
          const bool inside = v >= -above && v < H + below && u >= 0 && u < W;
          around[row][p] = inside ? x + b * of_x[0] + v * of_x[1] + u * of_x[2] : nothing;
        }
      if (more)
        for (int p = 0; p < 4; ++p)
          added[p] = more + b * of_more[0] + y * of_more[1] + std::min(left + p, W - 1) * of_more[2];
      T* outs = out + ((b * H + y) * W + left) * c;
      switch (std::min<int64_t>(4, W - left)) {
        case 1: convolve_pixels<1>(around, weights, bias, added, with_gelu, outs, c, c); break;
        case 2: convolve_pixels<2>(around, weights, bias, added, with_gelu, outs, c, c); break;
        case 3: convolve_pixels<3>(around, weights, bias, added, with_gelu, outs, c, c); break;
        default: convolve_pixels<4>(around, weights, bias, added, with_gelu, outs, c, c);
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------------- merging

// Indices of tokens in order: place and value are one whole number, so that ties keep their order and NaN is last.
void rank(const int64_t* a) {
  const float* significance = reinterpret_cast<float*>(a[0]);
  int64_t* out = reinterpret_cast<int64_t*>(a[1]);
  const int64_t B = a[2], N = a[3], stride = a[4], threads = a[5];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && B > 1)
  for (int64_t b = 0; b < B; ++b) {
    int64_t* to = out + b * N;
    for (int64_t n = 0; n < N; ++n) {
      const float x = significance[b * stride + n] + 0.0f;  // no negative zero
      int32_t bits;
      __builtin_memcpy(&bits, &x, sizeof bits);
      if (bits < 0) bits ^= 0x7fffffff;  // the order of negative numbers turned over
      to[n] = (int64_t(x != x ? INT32_MAX : bits) << 32) | n;
    }
    std::sort(to, to + N);
    for (int64_t n = 0; n < N; ++n) to[n] &= UINT32_MAX;
  }
}

template <typename T>
void merge(const int64_t* a) {
  const T* x = reinterpret_cast<T*>(a[0]);
  const int64_t* ranking = reinterpret_cast<int64_t*>(a[1]);
  T* out = reinterpret_cast<T*>(a[2]);
  const int64_t B = a[3], N = a[4], c = a[5], M = a[6], factor = a[7], threads = a[8], bands = a[9];
  const int64_t *of_x = a + 10, *of_band = a + 12;  // image, token; address of weights, of bias, start, length, r
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * M; ++item) {
    const int64_t b = item / M;
    const int64_t* band = of_band;
    int64_t group = item % M;
    for (int64_t i = 0; i < bands; ++i, band += 5) {
      const int64_t groups = (band[3] + band[4] * factor - 1) / (band[4] * factor);
      if (group < groups) break;
      group -= groups;
    }
    const T *weights = reinterpret_cast<T*>(band[0]), *bias = reinterpret_cast<T*>(band[1]);
    const int64_t start = band[2], length = band[3], r = band[4];
    float* sums = scratch(3, size_t(c));
    for (int64_t i = 0; i < c; i += kLanes) store(sums + i, all(number(*bias)));
    for (int64_t j = 0; j < r * factor; ++j) {
      const int64_t rank = start + (group * r * factor + j) % length;
      const T* token = x + b * of_x[0] + ranking[b * N + rank] * of_x[1];
      const Vec weight = all(number(weights[j / factor]) / float(factor));
      for (int64_t i = 0; i < c; i += kLanes) store(sums + i, load(sums + i) + weight * load(token + i));
    }
    for (int64_t i = 0; i < c; i += kLanes) store(out + item * c + i, load(sums + i));
  }
}

// --------------------------------------------------------------------------------------------------------- linear

constexpr int kInner = 128;  // of the inner dimension at a time, in units: a panel of 64 columns stays in the first cache

// The inner dimension of a product in units of 32 bits: a number in float32, or a pair in bfloat16.
template <typename T>
struct Unit;

template <>
struct Unit<float> {
  static constexpr int kNumbers = 1;
  static Vec all(const float* p) { return ::all(*p); }
  static Vec add(Vec sum, Vec x, Vec w) { return sum + x * w; }
};

#ifdef __AVX512BF16__
template <>
struct Unit<BFloat16> {
  static constexpr int kNumbers = 2;
  static Vec all(const BFloat16* p) {
    float pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (Vec)_mm512_set1_ps(pair);
  }
  static Vec add(Vec sum, Vec x, Vec w) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)x, (__m512bh)(__m512)w);
  }
};
#endif

// Some rows of a product with a panel of columns, for a part of the inner dimension.
template <typename T>
struct Product {
  const T* x;
  int64_t x_stride;
  const float* panel;
  int units;
  const T *bias, *more;  // what it begins with; without a bias, with `sums`
  int64_t more_stride;
  float* sums;
  int64_t sums_stride;
  T* out;  // where the last part goes; others go to `sums`
  int64_t out_stride;

  // For some rows, and at most so many columns.
  void run(int64_t count, int64_t columns) const {
    switch (std::min<int64_t>(4, columns / kLanes)) {
      case 1: return run<1>(count);
      case 2: return run<2>(count);
      case 3: return run<3>(count);
      default: return run<4>(count);
    }
  }

  template <int V>
  void run(int64_t count) const {
    int64_t r = 0;
    for (; r + 6 <= count; r += 6) rows<6, V>(r);
    for (; r + 2 <= count; r += 2) rows<2, V>(r);
    for (; r < count; ++r) rows<1, V>(r);
  }

  template <int R, int V>
  void rows(int64_t first) const {
    const T* in = x + first * x_stride;
    float* so_far = sums + first * sums_stride;
    Vec totals[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        totals[r][v] = bias ? load(bias + v * kLanes) : load(so_far + r * sums_stride + v * kLanes);
        if (bias && more) totals[r][v] += load(more + (first + r) * more_stride + v * kLanes);
      }
    for (int k = 0; k < units; ++k) {
      Vec w[V];
      for (int v = 0; v < V; ++v) w[v] = load(panel + k * 64 + v * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vec unit = Unit<T>::all(in + r * x_stride + k * Unit<T>::kNumbers);
        for (int v = 0; v < V; ++v) totals[r][v] = Unit<T>::add(totals[r][v], unit, w[v]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        if (out)
          store(out + (first + r) * out_stride + v * kLanes, totals[r][v]);
        else
          store(so_far + r * sums_stride + v * kLanes, totals[r][v]);
      }
  }
};

// Units that the weights of a product take, in panels of 64 columns.
template <typename T>
int64_t packed_size(int64_t K, int64_t O) {
  return (O + 63) / 64 * 64 * (K / Unit<T>::kNumbers);
}

// A panel of weights `(O, K)`, a unit of the inner dimension after another.
template <typename T>
void pack(const T* weight, int64_t K, int64_t O, int64_t panel, float* packed) {
  const int64_t units = K / Unit<T>::kNumbers;
  for (int64_t o = 0; o < std::min<int64_t>(64, O - panel * 64); o += kLanes)
    for (int64_t k = 0; k < units; k += kLanes) {
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i)
        tile[i] = load(reinterpret_cast<const float*>(weight + (panel * 64 + o + i) * K) + k);
      turn(tile);
      for (int i = 0; i < kLanes; ++i) store(packed + panel * 64 * units + (k + i) * 64 + o, tile[i]);
    }
}

// The columns of a panel of `x @ weight.T + bias + more`, for some rows; those of `out` have `wide` numbers.
template <typename T>
void multiply(const T* x, int64_t rows, const float* packed, const T* bias, const T* more, T* out, int64_t K, int64_t O,
              int64_t panel, int64_t wide) {
  constexpr int kNumbers = Unit<T>::kNumbers;
  const int64_t units = K / kNumbers, first = panel * 64;
  float* sums = scratch(2, size_t(rows) * 64);
  for (int64_t k = 0; k < units; k += kInner) {
    const int some = int(std::min<int64_t>(kInner, units - k));
    const Product<T> product{x + k * kNumbers, K, packed + first * units + k * 64, some, k ? nullptr : bias + first,
                             more ? more + first : nullptr, O, sums, 64, k + some == units ? out + first : nullptr, wide};
    product.run(rows, O - first);
  }
}

template <typename T>
void linear(const int64_t* a) {
  const T *x = reinterpret_cast<T*>(a[0]), *weight = reinterpret_cast<T*>(a[1]);
  const T *bias = reinterpret_cast<T*>(a[2]), *more = reinterpret_cast<T*>(a[3]);  // the latter may be null
  T* out = reinterpret_cast<T*>(a[4]);
  const int64_t rows = a[5], K = a[6], O = a[7], threads = a[8], panels = (O + 63) / 64;
  float* packed = scratch(3, packed_size<T>(K, O));
  const int64_t blocks = std::max<int64_t>(1, rows / 192), step = ((rows + blocks - 1) / blocks + 5) / 6 * 6;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels; ++panel) pack(weight, K, O, panel, packed);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < blocks * panels; ++item) {
      const int64_t begin = item / panels * step, some = std::min(rows, begin + step) - begin;
      if (some > 0)
        multiply(x + begin * K, some, packed, bias, more ? more + begin * O : nullptr, out + begin * O, K, O,
                 item % panels, O);
    }
  }
}

// ------------------------------------------------------------------------------------------------ norm and squares

// A norm of each token, with a GELU after it if asked for.
template <typename T>
void norm(const int64_t* a, double eps) {
  const T *x = reinterpret_cast<T*>(a[0]), *weight = reinterpret_cast<T*>(a[1]);
  const T* bias = reinterpret_cast<T*>(a[2]);
  T* out = reinterpret_cast<T*>(a[3]);
  const int64_t rows = a[4], c = a[5], with_gelu = a[6], threads = a[7];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < rows; ++row) {
    const T* in = x + row * c;
    Vec total = {}, squares = {};
    for (int64_t i = 0; i < c; i += kLanes) total += load(in + i);
    const float mean = sum(total) / float(c);
    for (int64_t i = 0; i < c; i += kLanes) {
      const Vec off = load(in + i) - mean;
      squares += off * off;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / float(c) + float(eps));
    for (int64_t i = 0; i < c; i += kLanes) {
      const Vec y = (load(in + i) - mean) * scale * load(weight + i) + load(bias + i);
      store(out + row * c + i, with_gelu ? gelu(y) : y);
    }
  }
}

struct Moments {
  float mean, scale;  // the latter is one over the standard deviation
};

// Of many numbers, added up in float64.
template <typename T>
Moments moments(const T* x, int64_t count, double eps, int64_t threads) {
  constexpr int64_t kSome = 8 * kLanes;  // numbers that are added up in float32
  double total = 0, squares = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(+ : total, squares)
  for (int64_t first = 0; first < count; first += kSome) {
    Vec some = {}, squared = {};
    for (int64_t i = first; i < std::min(count, first + kSome); i += kLanes) {
      const Vec y = load(x + i);
      some += y;
      squared += y * y;
    }
    total += sum(some);
    squares += sum(squared);
  }
  const double mean = total / double(count);
  return {float(mean), float(1 / std::sqrt(std::max(0.0, squares / double(count) - mean * mean) + eps))};
}

// A norm over all of each map, with a GELU after it if asked for.
template <typename T>
void map_norm(const int64_t* a, double eps) {
  const T *x = reinterpret_cast<T*>(a[0]), *weight = reinterpret_cast<T*>(a[1]);
  const T* bias = reinterpret_cast<T*>(a[2]);
  T* out = reinterpret_cast<T*>(a[3]);
  const int64_t B = a[4], tokens = a[5], c = a[6], with_gelu = a[7], threads = a[8];
  for (int64_t b = 0; b < B; ++b) {
    const T* in = x + b * tokens * c;
    const Moments of_map = moments(in, tokens * c, eps, threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < tokens; ++n)
      for (int64_t i = 0; i < c; i += kLanes) {
        const Vec y = (load(in + n * c + i) - of_map.mean) * (of_map.scale * load(weight + i)) + load(bias + i);
        store(out + (b * tokens + n) * c + i, with_gelu ? gelu(y) : y);
      }
  }
}

// A map cut into squares, zeros beyond it, in the order of a convolution's weights: channel, row, column.
template <typename T>
void squares(const int64_t* a) {
  const T* x = reinterpret_cast<T*>(a[0]);
  T* out = reinterpret_cast<T*>(a[1]);
  const int64_t B = a[2], H = a[3], W = a[4], c = a[5], side = a[6], threads = a[7];
  const int64_t h = (H + side - 1) / side, w = (W + side - 1) / side, area = side * side;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * h * w; ++item) {
    const int64_t b = item / (h * w), top = item / w % h * side, left = item % w * side;
    for (int64_t at = 0; at < area; ++at) {
      const int64_t y = top + at / side, u = left + at % side;
      const T* token = y < H && u < W ? x + ((b * H + y) * W + u) * c : nullptr;
      for (int64_t i = 0; i < c; ++i) out[(item * c + i) * area + at] = token ? token[i] : T{};
    }
  }
}

// Means of the tokens of a map over cells, those at the edge over what exists.
template <typename T>
void pool(const int64_t* a) {
  const T* x = reinterpret_cast<T*>(a[0]);
  T* out = reinterpret_cast<T*>(a[1]);
  const int64_t B = a[2], H = a[3], W = a[4], c = a[5], side = a[6], threads = a[7];
  const int64_t h = (H + side - 1) / side, w = (W + side - 1) / side;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * h * w; ++item) {
    const int64_t b = item / (h * w), top = item / w % h * side, left = item % w * side;
    const int64_t bottom = std::min(H, top + side), right = std::min(W, left + side);
    const float share = 1.0f / float((bottom - top) * (right - left));
    for (int64_t i = 0; i < c; i += kLanes) {
      Vec total = {};
      for (int64_t y = top; y < bottom; ++y)
        for (int64_t u = left; u < right; ++u) total += load(x + ((b * H + y) * W + u) * c + i);
      store(out + item * c + i, total * share);
    }
  }
}

}  // namespace
