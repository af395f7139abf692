"""The definition of `window_attention` in plain PyTorch."""

from torch import Tensor

from ..key_mean_attention import key_mean_attention
from ..windows import from_windows, to_windows


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Attention within windows; see `window_attention`."""
    _, H, W, channels = qkv.shape
    windows, exists = to_windows(qkv, size=size)  # (windows, size * size, 3c)
    num_windows, M, _ = windows.shape
    q, k, v = windows.view(num_windows, M, 3, num_heads, channels // (3 * num_heads)).permute(2, 0, 3, 1, 4)
    # Padded queries must not count in the mean, nor padded keys be seen.
    mask = None if exists is None else (exists[:, :, None] & exists[:, None, :])[:, None]
    out, key_mean = key_mean_attention(q, k, v, mask=mask)  # (windows, a, M, d), (windows, M)
    out = out.transpose(1, 2).reshape(num_windows, M, channels // 3)
    num_tokens = M if exists is None else exists.sum(1, keepdim=True)
    significance = from_windows((key_mean * num_tokens).unsqueeze(-1), H, W, size=size)
    return from_windows(out, H, W, size=size), significance.squeeze(-1)
