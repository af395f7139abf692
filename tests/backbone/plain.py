"""SG-Former a second time: written from the specification alone, in loops, an image at a time, with released names.

It imports nothing of the package, so that the two can disagree. `w` is a released state dict.
"""

import itertools
import math

import torch
import torch.nn.functional as F

STRIDES = (8, 4, 2, None)
GROUP_SIZES = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}
CONFIGS = {  # depths, channels, heads, MLP ratio
    "sgformer_test": ((2, 2, 2, 1), (16, 32, 48, 64), (2, 2, 2, 4), 2),
    "sgformer_s": ((2, 4, 16, 1), (64, 128, 256, 512), (2, 4, 8, 16), 4),
    "sgformer_m": ((2, 6, 28, 2), (64, 128, 256, 512), (2, 4, 8, 16), 4),
    "sgformer_b": ((4, 6, 24, 2), (96, 192, 384, 768), (4, 6, 12, 24), 4),
}


def official_shapes(variant, num_classes=1000):
    """Name and shape of every entry of a released state dict."""
    depths, channels, _, ratio = CONFIGS[variant]
    shapes = {"pos_embed": (1, 56 * 56, channels[0])}

    def add(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def add_conv_gn(name, *shape):
        add(f"{name}.c", *shape, bias=False)
        add(f"{name}.bn", shape[0])

    for i, c in enumerate((3, channels[0], channels[0])):
        add_conv_gn(f"patch_embed1.conv.{2 * i}", channels[0], c, 3, 3)
    add("patch_embed1.norm", channels[0])
    for i, (depth, c, s) in enumerate(zip(depths, channels, STRIDES, strict=True), 1):
        if i > 1:
            add_conv_gn(f"patch_embed{i}.conv1", c, channels[i - 2], 1, 1)
            add_conv_gn(f"patch_embed{i}.conv2", c, 1, 3, 3)
            add_conv_gn(f"patch_embed{i}.conv3", c, c, 1, 1)
        for j in range(depth):
            block = f"block{i}.{j}"
            projections = {"lepe_linear": c, "proj": c}
            if s is None:
                projections |= {"q": c, "kv": 2 * c}
            elif j % 2:
                projections |= {"q": c, "kv1": c, "kv2": c}
                for band, r in enumerate(GROUP_SIZES[s], 1):
                    add(f"{block}.attn.f{band}", 1, r)
            else:
                projections |= {"q1": c // 2, "kv1": c, "q2": c // 2, "kv2": c}
                add(f"{block}.attn.sr", c, c, s, s)
                add(f"{block}.attn.norm", c)
            for name, out in projections.items():
                add(f"{block}.attn.{name}", out, c)
            add(f"{block}.attn.lepe_conv", c, 1, 3, 3)
            add(f"{block}.norm1", c)
            add(f"{block}.norm2", c)
            add(f"{block}.mlp.fc1", ratio * c, c)
            add(f"{block}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
            add(f"{block}.mlp.fc2", c, ratio * c)
        add(f"norm{i}", c)
    add("head", num_classes, channels[-1])
    return shapes


@torch.no_grad()
def run(w, variant, images, budget=None, held=None):
    """Logits, the four stages `(B, N, c)`, and all significance maps; `held` maps rank in place of measured ones."""
    results = [_run(w, variant, image, budget, [m[b] for m in held or []]) for b, image in enumerate(images)]
    logits, stages, maps = zip(*results, strict=True)
    return torch.stack(logits), *([torch.stack(x) for x in zip(*xs, strict=True)] for xs in (stages, maps))


def _run(w, variant, image, budget, held):
    depths, _, heads, _ = CONFIGS[variant]
    x, stages, maps = stem(w, image.permute(1, 2, 0)), [], []
    for i, (depth, a, s) in enumerate(zip(depths, heads, STRIDES, strict=True), 1):
        if i > 1:
            x = F.gelu(conv_gn(w, f"patch_embed{i}.conv1", x))
            x = F.gelu(conv_gn(w, f"patch_embed{i}.conv2", x, stride=2, padding=1, groups=x.shape[-1]))
            x = conv_gn(w, f"patch_embed{i}.conv3", x)
        for j in range(depth):
            block = f"block{i}.{j}"
            y = layer_norm(w, f"{block}.norm1", x, 1e-6)
            if s is None:
                out = plain_attention(w, f"{block}.attn", y, a, budget)
            elif j % 2 == 0:
                out, significance = hybrid_scale(w, f"{block}.attn", y, a, s, budget)
                maps.append(significance)
                significance = held[len(maps) - 1] if held else significance
            else:
                out = self_guided(w, f"{block}.attn", y, a, s, budget, significance)
            out = out + conv(w, f"{block}.attn.lepe_conv", linear(w, f"{block}.attn.lepe_linear", y), dw=True)
            x = x + linear(w, f"{block}.attn.proj", out)
            y = linear(w, f"{block}.mlp.fc1", layer_norm(w, f"{block}.norm2", x, 1e-6))
            y = y + conv(w, f"{block}.mlp.dwconv.dwconv", y, dw=True)
            x = x + linear(w, f"{block}.mlp.fc2", F.gelu(y))
        x = layer_norm(w, f"norm{i}", x, 1e-6)
        stages.append(x.flatten(0, 1))
    return linear(w, "head", stages[-1].mean(0)), stages, maps


def stem(w, x):
    x = F.gelu(conv_gn(w, "patch_embed1.conv.0", x, stride=2, padding=1))
    x = F.gelu(conv_gn(w, "patch_embed1.conv.2", x, padding=1))
    x = conv_gn(w, "patch_embed1.conv.4", x, stride=2, padding=1)
    x = layer_norm(w, "patch_embed1.norm", x, 1e-5)
    positions = w["pos_embed"].reshape(56, 56, -1)
    if x.shape[:2] != (56, 56):
        positions = positions.permute(2, 0, 1)[None]
        positions = F.interpolate(positions, x.shape[:2], mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    return x + positions


def hybrid_scale(w, name, x, a, s, budget):
    H, W, c = x.shape
    coarse = conv(w, f"{name}.sr", F.pad(x, (0, 0, 0, -W % s, 0, -H % s)), stride=s)
    coarse, t = pool(F.gelu(layer_norm(w, f"{name}.norm", coarse, 1e-5)), budget)
    rows, columns = coarse.shape[:2]
    k, v = linear(w, f"{name}.kv1", coarse.flatten(0, 1)).chunk(2, 1)
    out, weights = attend(linear(w, f"{name}.q1", x.flatten(0, 1)), k, v, a // 2)
    out_global = out.reshape(H, W, c // 2)
    received = weights.mean((0, 1)).reshape(rows, columns) * rows * columns
    out_local, significance = torch.empty_like(out_global), torch.empty_like(received[:1, :1].expand(H, W))
    q, (k, v) = linear(w, f"{name}.q2", x), linear(w, f"{name}.kv2", x).chunk(2, 2)
    for i in range(0, H, 7):
        for j in range(0, W, 7):
            window = slice(i, i + 7), slice(j, j + 7)
            shape = out_local[window].shape
            out, weights = attend(*(z[window].flatten(0, 1) for z in (q, k, v)), a // 2)
            out_local[window] = out.reshape(shape)
            significance[window] = (weights.mean((0, 1)) * len(out)).reshape(shape[:2])
    for i in range(H):
        for j in range(W):
            significance[i, j] = (significance[i, j] + received[i // (s * t), j // (s * t)]) / 2
    return torch.cat((out_global, out_local), 2), significance


def self_guided(w, name, x, a, s, budget, significance):
    H, W, c = x.shape
    tokens, values = x.flatten(0, 1), significance.flatten().tolist()
    ranking = sorted(range(H * W), key=values.__getitem__)  # stable
    r = GROUP_SIZES[s]
    weights = [(w[f"{name}.f{i}.weight"][0], w[f"{name}.f{i}.bias"]) for i in range(1, len(r) + 1)]
    summary = torch.stack([tokens[t].T @ f + b for t, f, b in groups(tokens, ranking, r, weights, budget)])
    (k1, v1), (k2, v2) = (linear(w, f"{name}.{kv}", summary).chunk(2, 1) for kv in ("kv1", "kv2"))
    q1, q2 = linear(w, f"{name}.q", tokens).chunk(2, 1)
    out = torch.cat((attend(q1, k1, v1, a // 2)[0], attend(q2, k2, v2, a // 2)[0]), 1)
    return out.reshape(H, W, c)


def groups(tokens, ranking, group_sizes, weights, budget=None):
    """For each summary token: which tokens it merges, what each counts, and its bias."""
    N = len(ranking)
    cuts = [0, N // 2, N] if len(group_sizes) == 2 else [0, N // 4, 3 * (N // 4), N]
    bands = [ranking[start:end] for start, end in itertools.pairwise(cuts)]
    t = 1
    while budget and sum(math.ceil(len(band) / (r * t)) for band, r in zip(bands, group_sizes, strict=True)) > budget:
        t += 1
    for band, r, (f, bias) in zip(bands, group_sizes, weights, strict=True):
        for group in range(math.ceil(len(band) / (r * t))):
            first = group * r * t
            members = [band[i % len(band)] for i in range(first, first + r * t)]
            yield members, torch.stack([f[i // t] / t for i in range(r * t)]), bias


def plain_attention(w, name, x, a, budget):
    k, v = linear(w, f"{name}.kv", pool(x, budget)[0].flatten(0, 1)).chunk(2, 1)
    return attend(linear(w, f"{name}.q", x.flatten(0, 1)), k, v, a)[0].reshape(x.shape)


def pool(x, budget):
    h, w, c = x.shape
    t = 1
    while budget and math.ceil(h / t) * math.ceil(w / t) > budget:
        t += 1
    cells = [x[i : i + t, j : j + t].mean((0, 1)) for i in range(0, h, t) for j in range(0, w, t)]
    return torch.stack(cells).reshape(math.ceil(h / t), math.ceil(w / t), c), t


def attend(q, k, v, heads):
    d = q.shape[1] // heads
    out, weights = [], []
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        weights.append((q[:, part] @ k[:, part].T * d**-0.5).softmax(1))
        out.append(weights[-1] @ v[:, part])
    return torch.cat(out, 1), torch.stack(weights).to(torch.promote_types(q.dtype, torch.float32))


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def layer_norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def conv(w, name, x, dw=False, **options):
    if dw:
        options = {"padding": 1, "groups": x.shape[-1]}
    y = F.conv2d(x.permute(2, 0, 1)[None], w[f"{name}.weight"], w.get(f"{name}.bias"), **options)
    return y[0].permute(1, 2, 0)


def conv_gn(w, name, x, **options):
    y = conv(w, f"{name}.c", x, **options).permute(2, 0, 1)[None]
    return F.group_norm(y, 1, w[f"{name}.bn.weight"], w[f"{name}.bn.bias"], 1e-5)[0].permute(1, 2, 0)
