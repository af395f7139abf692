// What `library.py` compiles, if asked to: whole blocks of the backbone, of the ops in `ops.h`, those ops,
// gradients of some, and the regions of detectors.

#include <cstdlib>
#include <memory>

#include "gradients.h"
#include "ops.h"
#include "regions.h"

namespace {

// Memory for a map within a block, as it comes.
template <typename T>
struct Buffer {
  std::unique_ptr<T, decltype(&std::free)> kept;

  explicit Buffer(int64_t count)
      : kept(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) / 64 + 1) * 64)), &std::free) {}
  T* get() const { return kept.get(); }
};

template <typename T>
struct Layer {
  const T *weight, *bias;
};

int64_t cells(int64_t length, int64_t side) { return (length + side - 1) / side; }

template <typename P>
int64_t number_of(const P* address) {
  return reinterpret_cast<int64_t>(address);
}

// The MLP of a block with its norm, added to a band of rows. It goes down a few rows at a time, and there through the
// hidden map some channels at a time, each of which goes through both products and the convolution while it is in the
// cache. Of the hidden map it keeps the last two rows, for the convolution of the next few.
template <typename T>
struct Mlp {
  static constexpr int64_t kChannels = 128;      // of the hidden map that go together
  static constexpr int64_t kNumbers = 3 << 17;  // in what a few rows take of the cache, about

  int64_t W, c, hidden;
  Layer<T> of_norm, fc1, conv, fc2;
  double eps;
  Buffer<float> packed1{packed_size<T>(c, hidden)}, packed2{packed_size<T>(hidden, c)};

  int64_t panels1() const { return cells(hidden, 64); }
  int64_t panels2() const { return cells(c, 64); }
  void pack_any(int64_t panel) const {
    if (panel < panels1())
      pack(fc1.weight, c, hidden, panel, packed1.get());
    else
      pack(fc2.weight, hidden, c, panel - panels1(), packed2.get());
  }

  // `above` and `below` are the rows next to the band, as they were; null at the edge of the map.
  void add(T* x, int64_t H, const T* above, const T* below) const {
    const int64_t row = W * c, most = std::min(hidden, kChannels), units = hidden / Unit<T>::kNumbers;
    const int64_t step = std::clamp<int64_t>(kNumbers / (W * (2 * c + 2 * most)), 1, H);
    Buffer<T> normed((step + 2) * row), wider((step + 2) * W * most), kept(2 * W * hidden), convolved(step * W * most);
    Buffer<float> sums(step * W * cells(c, 64) * 64);
    for (int64_t at = 0; at < H; at += step) {
      const int64_t some = std::min(step, H - at);
      const bool is_first = at == 0, is_last = at + some == H;
      // Rows that are new: the first time, all; then those that lie below what was kept.
      T* to = normed.get();
      if (is_first && above) to = normalize(above, 1, to);
      const int64_t begin = is_first ? 0 : at + 1, end = is_last ? H : at + some + 1;
      to = normalize(x + begin * row, end - begin, to);
      if (is_last && below) to = normalize(below, 1, to);
      const int64_t tokens = (to - normed.get()) / c, skipped = is_first ? !above : 2;
      T* rows = x + at * row;
      for (int64_t first = 0; first < hidden; first += kChannels) {
        const int64_t wide = std::min(kChannels, hidden - first);
        T* last = kept.get() + first * 2 * W;
        if (!is_first) std::copy_n(last, 2 * W * wide, wider.get());
        for (int64_t panel = first / 64; panel * 64 < first + wide; ++panel)
          multiply<T>(normed.get(), tokens, packed1.get(), fc1.bias, nullptr, wider.get() + skipped * W * wide - first, c,
                      hidden, panel, wide);
        const T* here = wider.get() + W * wide;
        const int64_t a[] = {number_of(here), number_of(conv.weight + first * 9), number_of(conv.bias + first),
                             number_of(here), number_of(convolved.get()),
                             1,    some, W,    wide, 1,    1,
                             some * W * wide, W * wide, wide, some * W * wide, W * wide, wide,
                             !is_first || above, !is_last || below};
        depthwise<T>(a);
        if (!is_last) std::copy_n(wider.get() + some * W * wide, 2 * W * wide, last);
        for (int64_t panel = 0; panel < panels2(); ++panel) {
          const int64_t column = panel * 64;
          const float* packed = packed2.get() + column * units + first / Unit<T>::kNumbers * 64;
          const Product<T> product{convolved.get(), wide, packed, int(wide / Unit<T>::kNumbers),
                                   first ? nullptr : fc2.bias + column, rows + column, c,
                                   sums.get() + column * step * W, 64,
                                   first + wide == hidden ? rows + column : nullptr, c};
          product.run(some * W, c - column);
        }
      }
    }
  }

  // Writes the norm of some rows, and returns where that ends.
  T* normalize(const T* from, int64_t rows, T* to) const {
    const int64_t a[] = {number_of(from), number_of(of_norm.weight), number_of(of_norm.bias), number_of(to),
                         rows * W,        c,                         0,                       1};
    norm<T>(a, eps);
    return to + rows * W * c;
  }

  // To a batch of maps, in as many bands for each thread.
  void add_to_all(T* x, int64_t B, int64_t H, int64_t threads) const {
    const int64_t row = W * c, height = cells(H, B % threads ? std::min(H, threads) : 1), bands = cells(H, height);
    Buffer<T> edges(B * bands * 2 * row);  // the row above a band and the one below, before they are written over
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static) nowait
      for (int64_t panel = 0; panel < panels1() + panels2(); ++panel) pack_any(panel);
#pragma omp for schedule(static)
      for (int64_t band = 0; band < B * bands; ++band) {
        const int64_t top = band % bands * height, bottom = std::min(H, top + height);
        const T* map = x + band / bands * H * row;
        if (top > 0) std::copy_n(map + (top - 1) * row, row, edges.get() + band * 2 * row);
        if (bottom < H) std::copy_n(map + bottom * row, row, edges.get() + (band * 2 + 1) * row);
      }
#pragma omp for schedule(static)
      for (int64_t band = 0; band < B * bands; ++band) {
        const int64_t top = band % bands * height, bottom = std::min(H, top + height);
        const T* edge = edges.get() + band * 2 * row;
        add(x + (band / bands * H + top) * row, bottom - top, top > 0 ? edge : nullptr, bottom < H ? edge + row : nullptr);
      }
    }
  }
};

// To one band, by one thread.
template <typename T>
void add_mlp(const int64_t* a, double eps) {
  const auto layer = [=](int i) { return Layer<T>{reinterpret_cast<T*>(a[i]), reinterpret_cast<T*>(a[i + 1])}; };
  const Mlp<T> mlp{a[4], a[5], a[6], layer(7), layer(9), layer(11), layer(13), eps};
  for (int64_t panel = 0; panel < mlp.panels1() + mlp.panels2(); ++panel) mlp.pack_any(panel);
  mlp.add(reinterpret_cast<T*>(a[0]), a[3], reinterpret_cast<T*>(a[1]), reinterpret_cast<T*>(a[2]));
}

constexpr int64_t kInRows = 784;  // of images with as many tokens the MLP takes a few rows at a time

// A block's numbers: what all kinds of blocks have; what follows is each kind's own.
template <int D, typename T>
struct Block {
  const T* x;
  T* out;
  int64_t B, H, W, c, hidden, threads, tokens;
  Layer<T> norm1, in_proj, kv, positional, proj, norm2, fc1, conv, fc2;
  const int64_t* own;

  explicit Block(const int64_t* a) : x(reinterpret_cast<T*>(a[0])), out(reinterpret_cast<T*>(a[1])) {
    B = a[2], H = a[3], W = a[4], c = a[5], hidden = a[6], threads = a[7], tokens = B * H * W;
    own = a + 8;
    for (Layer<T>* layer : {&norm1, &in_proj, &kv, &positional, &proj, &norm2, &fc1, &conv, &fc2}) *layer = next();
  }

  Layer<T> next() {
    own += 2;
    return {reinterpret_cast<T*>(own[-2]), reinterpret_cast<T*>(own[-1])};
  }

  void normalize(Layer<T> layer, const T* in, T* to, int64_t rows, double eps, bool with_gelu = false) const {
    const int64_t a[] = {number_of(in), number_of(layer.weight), number_of(layer.bias), number_of(to), rows,
                         c,             with_gelu,               threads};
    norm<T>(a, eps);
  }

  void project(Layer<T> layer, const T* in, T* to, int64_t rows, int64_t K, int64_t O, const T* more = nullptr) const {
    const int64_t a[] = {number_of(in), number_of(layer.weight), number_of(layer.bias), number_of(more), number_of(to),
                         rows,          K,                       O,                     threads};
    linear<T>(a);
  }

  // A depthwise convolution of some channels of a map whose tokens have `wide`, plus another map.
  void convolve(Layer<T> layer, const T* in, int64_t wide, const T* more, T* to, int64_t channels, bool with_gelu) const {
    const int64_t a[] = {number_of(in), number_of(layer.weight), number_of(layer.bias), number_of(more), number_of(to), B,
                         H,             W,                       channels,              with_gelu,       threads,
                         H * W * wide,  W * wide,                wide,                  H * W * channels, W * channels,
                         channels,      0,                       0};
    depthwise<T>(a);
  }

  // Attention of the tokens, whose queries lie `wide` numbers apart, to M keys; keys lie before values.
  void attend(const T* q, int64_t wide, const T* kv, int64_t M, int64_t heads, T* found, float* key_mean) const {
    const int64_t N = H * W, of_keys = 2 * heads * D;
    const int64_t a[] = {number_of(q), number_of(kv), number_of(kv + heads * D), number_of(found), number_of(key_mean),
                         B,            heads,         N,
                         M,            threads,
                         N * wide,     D,             wide,
                         M * of_keys,  D,             of_keys,
                         M * of_keys,  D,             of_keys,
                         N * c,        D,             c};
    attention<D, T>(a, 1 / std::sqrt(double(D)));
  }

  // What follows on attention: the positional branch, the projection and the MLP, with both residuals.
  void finish(const T* branch, int64_t wide, const T* found, double eps) const {
    Buffer<T> y(tokens * c);
    convolve(positional, branch, wide, found, y.get(), c, false);
    project(proj, y.get(), out, tokens, c, c, x);
    if (H * W >= kInRows) return Mlp<T>{W, c, hidden, norm2, fc1, conv, fc2, eps}.add_to_all(out, B, H, threads);
    normalize(norm2, out, y.get(), tokens, eps);
    Buffer<T> wider(tokens * hidden), convolved(tokens * hidden);
    project(fc1, y.get(), wider.get(), tokens, c, hidden);
    convolve(conv, wider.get(), hidden, wider.get(), convolved.get(), hidden, true);
    project(fc2, convolved.get(), out, tokens, hidden, c, out);
  }
};

// Its own numbers: two layers, address of significance, heads of a half, size of windows, stride, side of pooled cells.
template <int D, typename T>
void hybrid_scale(const int64_t* a, double eps1, double eps2, double eps_coarse) {
  Block<D, T> block(a);
  const Layer<T> coarse = block.next(), coarse_norm = block.next();
  const int64_t significance = block.own[0], heads = block.own[1], size = block.own[2];
  const int64_t stride = block.own[3], side = block.own[4], threads = block.threads;
  const int64_t B = block.B, H = block.H, W = block.W, c = block.c, tokens = block.tokens;
  const int64_t h = cells(H, stride), w = cells(W, stride), area = stride * stride;
  const int64_t rows = cells(h, side), columns = cells(w, side), keys = B * rows * columns;

  Buffer<T> projected(tokens * 3 * c), found(tokens * c), kv(keys * c);
  {
    Buffer<T> y(tokens * c), cut(B * h * w * area * c), made(B * h * w * c), pooled(keys * c);
    block.normalize(block.norm1, block.x, y.get(), tokens, eps1);
    block.project(block.in_proj, y.get(), projected.get(), tokens, c, 3 * c);
    const int64_t of_squares[] = {number_of(y.get()), number_of(cut.get()), B, H, W, c, stride, threads};
    squares<T>(of_squares);
    block.project(coarse, cut.get(), made.get(), B * h * w, area * c, c);
    block.normalize(coarse_norm, made.get(), made.get(), B * h * w, eps_coarse, true);
    const int64_t of_pool[] = {number_of(made.get()), number_of(pooled.get()), B, h, w, c, side, threads};
    if (side > 1) pool<T>(of_pool);
    block.project(block.kv, side > 1 ? pooled.get() : made.get(), kv.get(), keys, c, c);
  }
  Buffer<float> key_mean(keys);
  const T* qkv = projected.get() + c / 2;  // after the queries of the global half
  block.attend(projected.get(), 3 * c, kv.get(), rows * columns, heads, found.get(), key_mean.get());
  const int64_t of_windows[] = {number_of(qkv), number_of(found.get() + c / 2), significance, number_of(key_mean.get()),
                                rows,           columns,                        stride * side,
                                B,              H,                              W,
                                heads,          size,                           threads,
                                H * W * 3 * c,  W * 3 * c,                      3 * c,
                                H * W * c,      W * c,                          c};
  windows<D, T>(of_windows, 1 / std::sqrt(double(D)));
  block.finish(projected.get() + 2 * c, 3 * c, found.get(), eps2);
}

// Attention of all tokens to keys that `list` makes of the normed map.
template <int D, typename T, typename List>
void attend_to_list(const Block<D, T>& block, int64_t M, int64_t heads, double eps1, double eps2, List list) {
  const int64_t c = block.c, tokens = block.tokens;
  Buffer<T> projected(tokens * 2 * c), found(tokens * c), kv(block.B * M * 2 * c);
  {
    Buffer<T> y(tokens * c), keys(block.B * M * c);
    block.normalize(block.norm1, block.x, y.get(), tokens, eps1);
    block.project(block.in_proj, y.get(), projected.get(), tokens, c, 2 * c);
    list(y.get(), keys.get());
    block.project(block.kv, keys.get(), kv.get(), block.B * M, c, 2 * c);
  }
  block.attend(projected.get(), 2 * c, kv.get(), M, heads, found.get(), nullptr);
  block.finish(projected.get() + c, 2 * c, found.get(), eps2);
}

// Its own numbers: heads, address of the ranking, factor of the groups, how many summary tokens, bands as in `merge`.
template <int D, typename T>
void self_guided(const int64_t* a, double eps1, double eps2) {
  const Block<D, T> block(a);
  const int64_t heads = block.own[0], ranking = block.own[1], factor = block.own[2], M = block.own[3];
  const int64_t bands = block.own[4], N = block.H * block.W;
  attend_to_list(block, M, heads, eps1, eps2, [&](const T* y, T* keys) {
    std::vector<int64_t> of_merge = {number_of(y), ranking,       number_of(keys), block.B, N,          block.c,
                                     M,            factor,        block.threads,   bands,   N * block.c, block.c};
    of_merge.insert(of_merge.end(), block.own + 5, block.own + 5 + 5 * bands);
    merge<T>(of_merge.data());
  });
}

// Its own numbers: heads, side of pooled cells.
template <int D, typename T>
void global(const int64_t* a, double eps1, double eps2) {
  const Block<D, T> block(a);
  const int64_t heads = block.own[0], side = block.own[1], M = cells(block.H, side) * cells(block.W, side);
  attend_to_list(block, M, heads, eps1, eps2, [&](const T* y, T* keys) {
    const int64_t of_pool[] = {number_of(y), number_of(keys), block.B, block.H, block.W, block.c, side, block.threads};
    pool<T>(of_pool);
  });
}

}  // namespace

#define FOR_HEADS_OF(D, T, name)                                                                          \
  void attention_##D##_##name(const int64_t* a, double scale) { attention<D, T>(a, scale); }              \
  void windows_##D##_##name(const int64_t* a, double scale) { windows<D, T>(a, scale); }
#define BLOCKS_OF(D, T, name)                                                                             \
  void hybrid_scale_##D##_##name(const int64_t* a, double x, double y, double z) { hybrid_scale<D, T>(a, x, y, z); } \
  void self_guided_##D##_##name(const int64_t* a, double x, double y) { self_guided<D, T>(a, x, y); }     \
  void global_##D##_##name(const int64_t* a, double x, double y) { global<D, T>(a, x, y); }
#define FOR(T, name)                                                                                      \
  void depthwise_##name(const int64_t* a) { depthwise<T>(a); }                                            \
  void merge_##name(const int64_t* a) { merge<T>(a); }                                                    \
  void map_norm_##name(const int64_t* a, double eps) { map_norm<T>(a, eps); }                             \
  FOR_HEADS_OF(16, T, name)                                                                               \
  FOR_HEADS_OF(32, T, name)
#define PRODUCTS(T, name)                                                                                 \
  void add_mlp_##name(const int64_t* a, double eps) { add_mlp<T>(a, eps); }                               \
  void linear_##name(const int64_t* a) { linear<T>(a); }                                                  \
  BLOCKS_OF(16, T, name)                                                                                  \
  BLOCKS_OF(32, T, name)

extern "C" {
void rank_float32(const int64_t* a) { rank(a); }
void cut_regions_float32(const int64_t* a) { cut_regions(a); }
void depthwise_gradient_float32(const int64_t* a) { depthwise_gradient(a); }
void merge_gradient_float32(const int64_t* a) { merge_gradient(a); }
void map_norm_gradient_float32(const int64_t* a, double eps) { map_norm_gradient(a, eps); }
void attention_gradient_16_float32(const int64_t* a, double scale) { attention_gradient<16>(a, scale); }
void attention_gradient_32_float32(const int64_t* a, double scale) { attention_gradient<32>(a, scale); }
void window_gradient_16_float32(const int64_t* a, double scale) { window_gradient<16>(a, scale); }
void window_gradient_32_float32(const int64_t* a, double scale) { window_gradient<32>(a, scale); }
FOR(float, float32)
FOR(BFloat16, bfloat16)
PRODUCTS(float, float32)
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)  // with the latter, PyTorch's products are faster
PRODUCTS(BFloat16, bfloat16)
#endif
}
