// Gradients on a CPU, in float32, of ops that `ops.h` computes. Arguments are as there.

#pragma once

#include "ops.h"

namespace {

constexpr float kDensityAtZero = 0.3989422804014327f;  // of a standard normal distribution

// ---------------------------------------------------------------------------------------------------- attention

// Gradients of attention of some queries to all keys of a head, from those of what they find: of the queries, to `put`,
// and of keys and values, which are added. `swapped` are the keys in the place of the values, and the values in theirs.
template <int D, typename QueryAt, typename GradAt, typename Put>
void attend_gradient(int count, QueryAt query, GradAt grad_at, const Keys<D>& keys, const Keys<D>& swapped, float scale,
                     Put put, float* grad_keys, float* grad_values) {
  constexpr float kLog2E = 1.4426950408889634f;
  const int M = keys.count, tile = (M + 63) / 64 * 64, vectors = (M + kLanes - 1) / kLanes;
  float *weights = scratch(4, size_t(2 * kRows) * tile), *slopes = weights + size_t(kRows) * tile;
  alignas(64) float q[kRows * D], grads[kRows * D], out[kRows * D];
  for (int first = 0; first < count; first += kRows) {
    const int rows = std::min(kRows, count - first);
    for (int r = 0; r < rows; ++r)
      for (int d = 0; d < D; d += kLanes) {
        store(q + r * D + d, load(query(first + r) + d) * (scale * kLog2E));
        store(grads + r * D + d, load(grad_at(first + r) + d));
        store(out + r * D + d, Vec{});
      }
    scores_of<D>(rows, q, keys, 0, M, weights, tile);
    scores_of<D>(rows, grads, swapped, 0, M, slopes, tile);
    for (int r = 0; r < rows; ++r) {  // softmax: the slope of a score is weight * (slope - sum(weight * slope))
      float *row = weights + r * tile, *slope = slopes + r * tile;
      for (int m = M; m < vectors * kLanes; ++m) row[m] = -INFINITY;
      Vec most = load(row), total = {}, along = {};
      for (int v = 1; v < vectors; ++v) most = larger(most, load(row + v * kLanes));
      const float now = largest(most);
      for (int m = 0; m < vectors * kLanes; m += kLanes) {
        const Vec weight = exp2(load(row + m) - now);
        store(row + m, weight);
        total += weight;
        along += weight * load(slope + m);
      }
      const float share = 1.0f / sum(total), mean = sum(along) * share;
      for (int m = 0; m < vectors * kLanes; m += kLanes) {
        const Vec weight = load(row + m) * share;
        store(row + m, weight);
        store(slope + m, weight * (load(slope + m) - mean));
      }
    }
    weigh_rows<D>(rows, M, slopes, tile, 1, swapped.values, out);
    weigh_rows<D>(M, rows, slopes, 1, tile, q, grad_keys);
    weigh_rows<D>(M, rows, weights, 1, tile, grads, grad_values);
    for (int r = 0; r < rows; ++r)
      for (int d = 0; d < D; d += kLanes) put(first + r, d, load(out + r * D + d) * scale);
  }
  for (int i = 0; i < (count ? M * D : 0); i += kLanes) store(grad_keys + i, load(grad_keys + i) * (1 / kLog2E));
}

// Of all queries of all heads. What parts of the queries of a head add to its keys and values is kept apart.
template <int D>
void attention_gradient(const int64_t* a, double scale) {
  const float *q = reinterpret_cast<float*>(a[0]), *k = reinterpret_cast<float*>(a[1]);
  const float *v = reinterpret_cast<float*>(a[2]), *grad = reinterpret_cast<float*>(a[3]);
  float *grad_q = reinterpret_cast<float*>(a[4]), *grad_k = reinterpret_cast<float*>(a[5]);
  float* grad_v = reinterpret_cast<float*>(a[6]);
  const int64_t B = a[7], heads = a[8], N = a[9], M = a[10], threads = a[11];
  const int64_t *of_q = a + 12, *of_k = a + 15, *of_v = a + 18, *of_grad = a + 21;  // image, head, token
  const int64_t *of_grad_q = a + 24, *of_grad_k = a + 27;                            // the latter also of the values
  int64_t parts = 1;
  if (threads > 1 && B * heads % threads) parts = std::min((2 * threads + B * heads - 1) / (B * heads), (N + 63) / 64);
  const int64_t step = ((N + parts - 1) / parts + kRows - 1) / kRows * kRows;
  std::vector<float> sums(B * heads * parts * 2 * M * D);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * heads * parts; ++item) {
    const int64_t b = item / (heads * parts), h = item / parts % heads, begin = item % parts * step;
    const float *qs = q + b * of_q[0] + h * of_q[1] + begin * of_q[2], *ks = k + b * of_k[0] + h * of_k[1];
    const float *vs = v + b * of_v[0] + h * of_v[1], *grads = grad + b * of_grad[0] + h * of_grad[1] + begin * of_grad[2];
    float *to = grad_q + b * of_grad_q[0] + h * of_grad_q[1] + begin * of_grad_q[2], *some = sums.data() + item * 2 * M * D;
    const auto key = [=](int m) { return ks + m * of_k[2]; }, value = [=](int m) { return vs + m * of_v[2]; };
    const Keys<D> keys(0.0f, int(M), key, value), swapped(0.0f, int(M), value, key, 2);
    attend_gradient<D>(
        int(std::clamp<int64_t>(N - begin, 0, step)), [=](int n) { return qs + n * of_q[2]; },
        [=](int n) { return grads + n * of_grad[2]; }, keys, swapped, float(scale),
        [=](int n, int d, Vec x) { store(to + n * of_grad_q[2] + d, x); }, some, some + M * D);
  }
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t head = 0; head < B * heads; ++head)
    for (int64_t m = 0; m < M; ++m)
      for (int d = 0; d < D; d += kLanes) {
        Vec of_key = {}, of_value = {};
        for (int64_t part = 0; part < parts; ++part) {
          const float* some = sums.data() + (head * parts + part) * 2 * M * D + m * D + d;
          of_key += load(some), of_value += load(some + M * D);
        }
        const int64_t at = head / heads * of_grad_k[0] + head % heads * of_grad_k[1] + m * of_grad_k[2] + d;
        store(grad_k + at, of_key), store(grad_v + at, of_value);
      }
}

// Of attention within windows, to the gradient of a whole map of queries, keys and values.
template <int D>
void window_gradient(const int64_t* a, double scale) {
  const float *qkv = reinterpret_cast<float*>(a[0]), *grad = reinterpret_cast<float*>(a[1]);
  float* out = reinterpret_cast<float*>(a[2]);
  const int64_t B = a[3], H = a[4], W = a[5], heads = a[6], size = a[7], threads = a[8];
  const int64_t *of_map = a + 9, *of_grad = a + 12, *of_out = a + 15;  // image, row, token
  const int64_t rows = (H + size - 1) / size, columns = (W + size - 1) / size;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < B * rows * columns; ++item) {
    const int64_t b = item / (rows * columns), y = item / columns % rows * size, x = item % columns * size;
    const int wide = int(std::min(size, W - x)), count = int(std::min(size, H - y)) * wide;
    std::vector<float> sums(2 * count * D);
    for (int64_t head = 0; head < heads; ++head) {
      const auto at = [=](int part, int n) {
        return qkv + b * of_map[0] + (y + n / wide) * of_map[1] + (x + n % wide) * of_map[2] + (part * heads + head) * D;
      };
      const auto to = [=](int part, int n) {
        return out + b * of_out[0] + (y + n / wide) * of_out[1] + (x + n % wide) * of_out[2] + (part * heads + head) * D;
      };
      const auto key = [=](int n) { return at(1, n); }, value = [=](int n) { return at(2, n); };
      const Keys<D> keys(0.0f, count, key, value), swapped(0.0f, count, value, key, 2);
      std::fill(sums.begin(), sums.end(), 0.0f);
      attend_gradient<D>(
          count, [=](int n) { return at(0, n); },
          [=](int n) {
            return grad + b * of_grad[0] + (y + n / wide) * of_grad[1] + (x + n % wide) * of_grad[2] + head * D;
          },
          keys, swapped, float(scale), [=](int n, int d, Vec found) { store(to(0, n) + d, found); }, sums.data(),
          sums.data() + count * D);
      for (int part = 0; part < 2; ++part)
        for (int n = 0; n < count; ++n) std::copy_n(sums.data() + (part * count + n) * D, D, to(part + 1, n));
    }
  }
}

// ------------------------------------------------------------------------------------------- depthwise convolution

constexpr int kTaps = 9;
constexpr int64_t kGroup = 4 * kLanes;         // channels that an item takes
constexpr int64_t kStripNumbers = 1 << 16;     // in a strip of so many channels, about: half of it fits the second cache
constexpr int64_t kSums = (kTaps + 1) * kGroup;  // sums of an item: taps of the kernel, and the bias

// Some rows of 16 channels of a map: a column of zeros before the first, some after the last, and zeros where rows are
// beyond the map.
struct Strip {
  float* numbers;
  int64_t first, rows, W;

  static int64_t width(int64_t W) { return (W + 3) / 4 * 4 + 2; }
  int64_t size() const { return rows * width(W) * kLanes; }
  float* at(int64_t row, int64_t column) const { return numbers + ((row - first) * width(W) + column + 1) * kLanes; }
};

// Copies rows of a map, strides `of_map`, to strips of 16 channels that lie one after the other.
inline void cut(const float* map, const int64_t* of_map, int64_t H, int64_t count, const Strip& strip) {
  std::fill_n(strip.numbers, strip.size() * count, 0.0f);
  for (int64_t row = std::max<int64_t>(0, strip.first); row < std::min(H, strip.first + strip.rows); ++row)
    for (int64_t column = 0; column < strip.W; ++column) {
      const float* token = map + row * of_map[1] + column * of_map[2];
      for (int64_t i = 0; i < count; ++i) store(strip.at(row, column) + i * strip.size(), load(token + i * kLanes));
    }
}

// Adds the nine taps at four neighbouring places.
inline void add_taps(const Strip& strip, int64_t row, int64_t column, const Vec (&taps)[kTaps], Vec (&sums)[4]) {
  for (int i = 0; i < 3; ++i) {
    const float* in = strip.at(row + i - 1, column - 1);
    Vec x[6];
    for (int p = 0; p < 6; ++p) x[p] = load(in + p * kLanes);
    for (int j = 0; j < 3; ++j)
      for (int p = 0; p < 4; ++p) sums[p] += taps[3 * i + j] * x[p + j];
  }
}

// Gradients of `gelu(x + conv(x))` from that of the result, which is computed once more, for whoever has not kept it. The
// residual is there where asked for, and GELU where there is a place for the result. The map's gradient may go to where
// that of the result is, which is for maps that are not cut in bands: a band reads the rows next to it.
void depthwise_gradient(const int64_t* a) {
  const float *x = reinterpret_cast<float*>(a[0]), *weight = reinterpret_cast<float*>(a[1]);
  const float *bias = reinterpret_cast<float*>(a[2]), *grad = reinterpret_cast<float*>(a[3]);
  float *out = reinterpret_cast<float*>(a[4]), *grad_x = reinterpret_cast<float*>(a[5]);  // `out` may be null
  float *grad_weight = reinterpret_cast<float*>(a[6]), *grad_bias = reinterpret_cast<float*>(a[7]);
  const int64_t B = a[8], H = a[9], W = a[10], c = a[11], residual = a[12], threads = a[13];
  const int64_t *of_x = a + 14, *of_grad = a + 17, *of_grad_x = a + 20;  // image, row, token
  const int64_t row_numbers = Strip::width(W) * kGroup;
  const int64_t bands = grad == grad_x ? 1 : (H * row_numbers + kStripNumbers - 1) / kStripNumbers;
  const int64_t height = (H + bands - 1) / bands, groups = (c + kGroup - 1) / kGroup, items = groups * B * bands;
  std::vector<float> sums(items * kSums);  // of each item, so that what is added up does not depend on the threads
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t b = item % (B * bands) / bands, top = item % bands * height, bottom = std::min(H, top + height);
    const int64_t from = item / (B * bands) * kGroup, count = std::min(kGroup, c - from) / kLanes;
    Strip xs{nullptr, top - 2, bottom - top + 4, W}, grads{nullptr, top - 1, bottom - top + 2, W};
    float* const all_xs = xs.numbers = scratch(0, xs.size() * count);
    float* const all_grads = grads.numbers = scratch(1, grads.size() * count);
    cut(x + b * of_x[0] + from, of_x, H, count, xs);
    cut(grad + b * of_grad[0] + from, of_grad, H, count, grads);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = from + i * kLanes;
      xs.numbers = all_xs + i * xs.size(), grads.numbers = all_grads + i * grads.size();
      Vec taps[kTaps], turned[kTaps];
      for (int tap = 0; tap < kTaps; ++tap) {
        for (int lane = 0; lane < kLanes; ++lane) taps[tap][lane] = weight[(first + lane) * kTaps + tap];
        if (residual && tap == kTaps / 2) taps[tap] += 1.0f;
        turned[kTaps - 1 - tap] = taps[tap];
      }
      if (out)  // what is before GELU, and its slope, also in the rows next to the band
        for (int64_t row = std::max<int64_t>(0, top - 1); row < std::min(H, bottom + 1); ++row)
          for (int64_t column = 0; column < W; column += 4) {
            Vec y[4] = {load(bias + first), load(bias + first), load(bias + first), load(bias + first)};
            add_taps(xs, row, column, taps, y);
            for (int p = 0; p < 4; ++p) {
              const Vec density = bell(y[p]), below = normal_below(y[p], density);
              float* g = grads.at(row, column + p);
              store(g, load(g) * (below + y[p] * density * kDensityAtZero));
              if (row >= top && row < bottom && column + p < W)
                store(out + ((b * H + row) * W + column + p) * c + first, y[p] * below);
            }
          }
      Vec total[kTaps + 1] = {};
      for (int64_t row = top; row < bottom; ++row) {
        for (int64_t column = 0; column < W; column += 4) {
          Vec y[4] = {};
          add_taps(grads, row, column, turned, y);
          for (int p = 0; p < std::min<int64_t>(4, W - column); ++p)
            store(grad_x + b * of_grad_x[0] + row * of_grad_x[1] + (column + p) * of_grad_x[2] + first, y[p]);
        }
        Vec some[kTaps + 1] = {};
        for (int64_t column = 0; column < W; ++column) {
          const Vec g = load(grads.at(row, column));
          some[kTaps] += g;
          for (int tap = 0; tap < kTaps; ++tap) some[tap] += g * load(xs.at(row + tap / 3 - 1, column + tap % 3 - 1));
        }
        for (int tap = 0; tap <= kTaps; ++tap) total[tap] += some[tap];
      }
      for (int tap = 0; tap <= kTaps; ++tap) store(sums.data() + item * kSums + tap * kGroup + i * kLanes, total[tap]);
    }
  }
  for (int64_t channel = 0; channel < c; ++channel)
    for (int tap = 0; tap <= kTaps; ++tap) {
      double total = 0;
      for (int64_t item = 0; item < B * bands; ++item)
        total += sums[(channel / kGroup * B * bands + item) * kSums + tap * kGroup + channel % kGroup];
      (tap < kTaps ? grad_weight[channel * kTaps + tap] : grad_bias[channel]) = float(total);
    }
}

// ------------------------------------------------------------------------------------------------------ map norm

// Gradients of a norm over all of each map, with a GELU after it if asked for; of the weight and bias, summed over maps.
void map_norm_gradient(const int64_t* a, double eps) {
  const float *x = reinterpret_cast<float*>(a[0]), *weight = reinterpret_cast<float*>(a[1]);
  const float *bias = reinterpret_cast<float*>(a[2]), *grad = reinterpret_cast<float*>(a[3]);
  float *grad_x = reinterpret_cast<float*>(a[4]), *grad_weight = reinterpret_cast<float*>(a[5]);
  float* grad_bias = reinterpret_cast<float*>(a[6]);
  const int64_t B = a[7], tokens = a[8], c = a[9], with_gelu = a[10], threads = a[11];
  const int64_t parts = std::min<int64_t>(64, tokens), length = (tokens + parts - 1) / parts;
  std::vector<float> sums(parts * 2 * c);  // of a part of the tokens, by channel: for the weight, and for the bias
  std::vector<double> of_weight(c), of_bias(c);
  for (int64_t b = 0; b < B; ++b) {
    const float* in = x + b * tokens * c;
    float* out = grad_x + b * tokens * c;
    const Moments of_map = moments(in, tokens * c, eps, threads);
    std::fill(sums.begin(), sums.end(), 0.0f);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t part = 0; part < parts; ++part) {
      float *for_weight = sums.data() + part * 2 * c, *for_bias = for_weight + c;
      for (int64_t n = part * length; n < std::min(tokens, (part + 1) * length); ++n)
        for (int64_t i = 0; i < c; i += kLanes) {
          const Vec normal = (load(in + n * c + i) - of_map.mean) * of_map.scale;
          Vec g = load(grad + (b * tokens + n) * c + i);
          if (with_gelu) {
            const Vec y = normal * load(weight + i) + load(bias + i), density = bell(y);
            g *= normal_below(y, density) + y * density * kDensityAtZero;
          }
          store(out + n * c + i, g);  // for the second pass
          store(for_weight + i, load(for_weight + i) + g * normal);
          store(for_bias + i, load(for_bias + i) + g);
        }
    }
    double along = 0, total = 0;  // of the normalised map's gradient, with the map and without
    for (int64_t i = 0; i < c; ++i) {
      double for_weight = 0, for_bias = 0;
      for (int64_t part = 0; part < parts; ++part) {
        for_weight += sums[part * 2 * c + i];
        for_bias += sums[part * 2 * c + c + i];
      }
      of_weight[i] += for_weight, of_bias[i] += for_bias;
      along += for_weight * weight[i], total += for_bias * weight[i];
    }
    const float slope = float(along / double(tokens * c)), level = float(total / double(tokens * c));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < tokens; ++n)
      for (int64_t i = 0; i < c; i += kLanes) {
        const Vec normal = (load(in + n * c + i) - of_map.mean) * of_map.scale;
        store(out + n * c + i, (load(out + n * c + i) * load(weight + i) - level - normal * slope) * of_map.scale);
      }
  }
  std::copy_n(of_weight.data(), c, grad_weight);
  std::copy_n(of_bias.data(), c, grad_bias);
}

// ------------------------------------------------------------------------------------------------------- merging

// Gradients of summary tokens: of the tokens, added to what is there, and of the weights and bias of each band.
void merge_gradient(const int64_t* a) {
  const float *grad = reinterpret_cast<float*>(a[0]), *x = reinterpret_cast<float*>(a[1]);
  const int64_t* ranking = reinterpret_cast<int64_t*>(a[2]);
  float* grad_x = reinterpret_cast<float*>(a[3]);
  const int64_t B = a[4], N = a[5], c = a[6], M = a[7], factor = a[8], threads = a[9], bands = a[10];
  const int64_t* of_band = a + 11;  // address of weights, of their gradient, of the bias's; start, length, r
  int64_t members = 0;
  for (int64_t i = 0; i < bands; ++i) members += of_band[6 * i + 5] + 1;
  std::vector<double> sums(B * members);  // of each image: of a band's weights and bias, band after band
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float* slope = grad + b * M * c;
    double* some = sums.data() + b * members;
    for (const int64_t* band = of_band; band < of_band + 6 * bands; band += 6) {
      const float* weights = reinterpret_cast<float*>(band[0]);
      const int64_t start = band[3], length = band[4], r = band[5], groups = (length + r * factor - 1) / (r * factor);
      for (int64_t group = 0; group < groups; ++group, slope += c) {
        Vec total = {};
        for (int64_t i = 0; i < c; i += kLanes) total += load(slope + i);
        some[r] += sum(total);
        for (int64_t j = 0; j < r * factor; ++j) {
          const int64_t at = (b * N + ranking[b * N + start + (group * r * factor + j) % length]) * c;
          const float weight = weights[j / factor] / float(factor);
          Vec along = {};
          for (int64_t i = 0; i < c; i += kLanes) {
            const Vec g = load(slope + i);
            along += g * load(x + at + i);
            store(grad_x + at + i, load(grad_x + at + i) + g * weight);
          }
          some[j / factor] += sum(along) / double(factor);
        }
      }
      some += r + 1;
    }
  }
  int64_t at = 0;
  for (const int64_t* band = of_band; band < of_band + 6 * bands; band += 6)
    for (int64_t j = 0; j <= band[5]; ++j, ++at) {
      double total = 0;
      for (int64_t b = 0; b < B; ++b) total += sums[b * members + at];
      (j < band[5] ? reinterpret_cast<float*>(band[1])[j] : *reinterpret_cast<float*>(band[2])) = float(total);
    }
}

}  // namespace
