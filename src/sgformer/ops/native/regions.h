// Regions of maps on a CPU, in float32: what a detector's heads look at. Arguments are as in `ops.h`.

#pragma once

#include "ops.h"

namespace {

// Where a bilinear sample lies along a side of a map: between two places, and how near to the second.
struct Between {
  int64_t low, high;
  float share;

  Between(float at, int64_t length) {
    at = std::max(at, 0.0f);
    low = std::min(int64_t(at), length - 1);
    high = std::min(low + 1, length - 1);
    share = low == high ? 0.0f : at - float(low);
  }
};

// Each region cut out of the map of its level, as side x side means of bilinear samples, in the order that torchvision's
// `roi_align` has: of each channel all cells.
void cut_regions(const int64_t* a) {
  const float* regions = reinterpret_cast<float*>(a[0]);        // image, left, top, right and bottom of each
  const int64_t* level_of = reinterpret_cast<int64_t*>(a[1]);
  float* out = reinterpret_cast<float*>(a[2]);
  const int64_t count = a[3], c = a[4], side = a[5], samples = a[6], threads = a[7];
  const int64_t* levels = a + 8;  // of each: address, height, width, pixels a token, strides of image, row and token
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads) if (threads > 1)
  for (int64_t region = 0; region < count; ++region) {
    const int64_t* level = levels + 7 * level_of[region];
    const int64_t H = level[1], W = level[2], area = side * side, of_cell = samples * samples;
    const float *box = regions + 5 * region, scale = 1.0f / float(level[3]);
    const float* map = reinterpret_cast<float*>(level[0]) + int64_t(box[0]) * level[4];
    const float left = box[1] * scale, wide = std::max(box[3] * scale - left, 1.0f) / float(side);
    const float top = box[2] * scale, high = std::max(box[4] * scale - top, 1.0f) / float(side);
    float* means = scratch(0, size_t(area * c));
    std::vector<const float*> taps(4 * of_cell);
    std::vector<float> weights(4 * of_cell);
    for (int64_t cell = 0; cell < area; ++cell) {
      size_t found = 0;
      for (int64_t i = 0; i < of_cell; ++i) {
        const float y = top + float(cell / side) * high + (float(i / samples) + 0.5f) * high / float(samples);
        const float x = left + float(cell % side) * wide + (float(i % samples) + 0.5f) * wide / float(samples);
        if (y < -1 || y > float(H) || x < -1 || x > float(W)) continue;  // beyond the map are zeros
        const Between row(y, H), column(x, W);
        for (int tap = 0; tap < 4; ++tap, ++found) {
          const int64_t v = tap / 2 ? row.high : row.low, u = tap % 2 ? column.high : column.low;
          const float down = tap / 2 ? row.share : 1 - row.share, along = tap % 2 ? column.share : 1 - column.share;
          taps[found] = map + v * level[5] + u * level[6];
          weights[found] = down * along / float(of_cell);
        }
      }
      for (int64_t i = 0; i < c; i += kLanes) {
        Vec mean = {};
        for (size_t tap = 0; tap < found; ++tap) mean += load(taps[tap] + i) * weights[tap];
        store(means + cell * c + i, mean);
      }
    }
    for (int64_t i = 0; i < c; ++i)
      for (int64_t cell = 0; cell < area; ++cell) out[(region * c + i) * area + cell] = means[cell * c + i];
  }
}

}  // namespace
