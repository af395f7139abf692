"""The kernels of `triton.py`: attention with key means, and its gradients.

Scores come multiplied with log2(e), since GPUs have an exponential to base 2.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# (the language of kernels is not quite Python.)

from __future__ import annotations

from ..tiles import dot, jit, load_rows, softmax, tl


@jit
def _scores(
    q, k, mask, rows, N, columns, M, stride_mn, stride_mm, scale_log2,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores `(rows, columns)` times log2(e), minus infinity where a query may not see a key or there is none."""
    scores = dot(q, tl.trans(k), INTERPRET, PRECISION) * scale_log2
    if HAS_MASK:
        seen = (rows < N)[:, None] & (columns < M)[None, :]
        at = mask + rows.to(tl.int64)[:, None] * stride_mn + columns[None, :] * stride_mm
        return tl.where(seen & (tl.load(at, mask=seen, other=0) != 0), scores, float("-inf"))
    return scores + tl.where(columns < M, 0.0, float("-inf"))[None, :]


@jit
def _store_rows(pointer, rows, num_rows, stride_row, values, d: tl.constexpr, D: tl.constexpr):
    channels = tl.arange(0, D)
    at = pointer + rows.to(tl.int64)[:, None] * stride_row + channels[None, :]
    exists = (rows < num_rows)[:, None] & (channels < d)[None, :]
    tl.store(at, values.to(pointer.dtype.element_ty), mask=exists)


@jit
def forward_kernel(
    q, k, v, mask, out, log_sum, key_sum, scale_log2, a, N, M, blocks,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, o_b, o_a, o_n,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, STEPS: tl.constexpr,
    WHOLE: tl.constexpr, KEEP: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output and the weights that each key receives from the queries of this program."""
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    first = tl.program_id(0) * (BLOCK_N * STEPS)
    q += image * q_b + of_image * q_a
    k += image * k_b + of_image * k_a
    v += image * v_b + of_image * v_a
    mask += image * m_b + of_image * m_a
    out += image * o_b + of_image * o_a
    log_sum += head * N
    key_sum += (head * blocks + tl.program_id(0)) * M

    if WHOLE:  # all keys are in one tile
        columns = tl.arange(0, BLOCK_M)
        k_tile = load_rows(k, columns, M, k_m, k_d, d, D)
        v_tile = load_rows(v, columns, M, v_m, v_d, d, D)
        received = tl.zeros((BLOCK_M,), tl.float32)
        for step in range(STEPS):
            rows = first + step * BLOCK_N + tl.arange(0, BLOCK_N)
            q_tile = load_rows(q, rows, N, q_n, q_d, d, D)
            scores = _scores(
                q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
                HAS_MASK, INTERPRET, PRECISION,
            )  # fmt: skip
            weights, logarithm = softmax(scores, rows < N)
            if KEEP:
                tl.store(log_sum + rows, logarithm, mask=rows < N)
            received += tl.sum(weights, 0)
            result = dot(weights.to(v_tile.dtype), v_tile, INTERPRET, PRECISION)
            _store_rows(out, rows, N, o_n, result, d, D)
        tl.store(key_sum + columns, received, mask=columns < M)
    else:
        rows = first + tl.arange(0, BLOCK_N)
        q_tile = load_rows(q, rows, N, q_n, q_d, d, D)
        largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_N,), tl.float32)
        sum_of_values = tl.zeros((BLOCK_N, D), tl.float32)
        for start in range(0, M, BLOCK_M):
            columns = start + tl.arange(0, BLOCK_M)
            k_tile = load_rows(k, columns, M, k_m, k_d, d, D)
            scores = _scores(
                q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
                HAS_MASK, INTERPRET, PRECISION,
            )  # fmt: skip
            now_largest = tl.maximum(largest, tl.max(scores, 1))
            shift = tl.where(now_largest == float("-inf"), 0.0, now_largest)  # a query that has seen no key yet
            weights = tl.exp2(scores - shift[:, None])
            shrink = tl.exp2(largest - shift)
            v_tile = load_rows(v, columns, M, v_m, v_d, d, D)
            sum_of_values = sum_of_values * shrink[:, None] + dot(
                weights.to(v_tile.dtype), v_tile, INTERPRET, PRECISION
            )
            total = total * shrink + tl.sum(weights, 1)
            largest = now_largest
        sees = (rows < N) & (total > 0)
        _store_rows(out, rows, N, o_n, sum_of_values / tl.where(sees, total, 1.0)[:, None], d, D)
        # Where a query sees nothing, infinity: its weights are then zero wherever they are computed again.
        logarithm = tl.where(sees, largest + tl.log2(tl.where(sees, total, 1.0)), float("inf"))
        tl.store(log_sum + rows, logarithm, mask=rows < N)
        for start in range(0, M, BLOCK_M):
            columns = start + tl.arange(0, BLOCK_M)
            k_tile = load_rows(k, columns, M, k_m, k_d, d, D)
            scores = _scores(
                q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
                HAS_MASK, INTERPRET, PRECISION,
            )  # fmt: skip
            received = tl.sum(tl.exp2(scores - logarithm[:, None]), 0)
            tl.store(key_sum + columns, received, mask=columns < M)


@jit
def whole_gradient_kernel(
    q, k, v, mask, grad, grad_q, grad_k, grad_v, scale, scale_log2, a, N, M, blocks,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, g_b, g_a, g_n, g_d,
    o_b, o_a, o_n,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, STEPS: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients at once, where all keys are in one tile."""
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    first = tl.program_id(0) * (BLOCK_N * STEPS)
    q += image * q_b + of_image * q_a
    grad += image * g_b + of_image * g_a
    grad_q += image * o_b + of_image * o_a
    mask += image * m_b + of_image * m_a
    columns = tl.arange(0, BLOCK_M)
    k_tile = load_rows(k + image * k_b + of_image * k_a, columns, M, k_m, k_d, d, D)
    v_tile = load_rows(v + image * v_b + of_image * v_a, columns, M, v_m, v_d, d, D)
    of_keys = tl.zeros((BLOCK_M, D), tl.float32)
    of_values = tl.zeros((BLOCK_M, D), tl.float32)
    for step in range(STEPS):
        rows = first + step * BLOCK_N + tl.arange(0, BLOCK_N)
        q_tile = load_rows(q, rows, N, q_n, q_d, d, D)
        grad_tile = load_rows(grad, rows, N, g_n, g_d, d, D)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
            HAS_MASK, INTERPRET, PRECISION,
        )  # fmt: skip
        weights, _ = softmax(scores, rows < N)
        of_values += dot(tl.trans(weights.to(grad_tile.dtype)), grad_tile, INTERPRET, PRECISION)
        grad_weights = dot(grad_tile, tl.trans(v_tile), INTERPRET, PRECISION)
        # Softmax: dS = P * (dP - sum(P * dP)).
        delta = tl.sum(weights * grad_weights, 1)
        grad_scores = (weights * (grad_weights - delta[:, None]) * scale).to(k_tile.dtype)
        _store_rows(grad_q, rows, N, o_n, dot(grad_scores, k_tile, INTERPRET, PRECISION), d, D)
        of_keys += dot(tl.trans(grad_scores), q_tile, INTERPRET, PRECISION)
    at = (head * blocks + tl.program_id(0)) * M * d
    _store_rows(grad_k + at, columns, M, d, of_keys, d, D)
    _store_rows(grad_v + at, columns, M, d, of_values, d, D)


@jit
def query_gradient_kernel(
    q, k, v, mask, grad, log_sum, delta, grad_q, scale, scale_log2, a, N, M,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, g_b, g_a, g_n, g_d,
    o_b, o_a, o_n,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries: their gradients, over all keys."""
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q_tile = load_rows(q + image * q_b + of_image * q_a, rows, N, q_n, q_d, d, D)
    grad_tile = load_rows(grad + image * g_b + of_image * g_a, rows, N, g_n, g_d, d, D)
    logarithm = tl.load(log_sum + head * N + rows, mask=rows < N, other=float("inf"))
    delta_tile = tl.load(delta + head * N + rows, mask=rows < N, other=0.0)
    k += image * k_b + of_image * k_a
    v += image * v_b + of_image * v_a
    mask += image * m_b + of_image * m_a

    result = tl.zeros((BLOCK_N, D), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        k_tile = load_rows(k, columns, M, k_m, k_d, d, D)
        v_tile = load_rows(v, columns, M, v_m, v_d, d, D)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
            HAS_MASK, INTERPRET, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(scores - logarithm[:, None])
        grad_weights = dot(grad_tile, tl.trans(v_tile), INTERPRET, PRECISION)
        grad_scores = weights * (grad_weights - delta_tile[:, None]) * scale
        result += dot(grad_scores.to(k_tile.dtype), k_tile, INTERPRET, PRECISION)
    _store_rows(grad_q + image * o_b + of_image * o_a, rows, N, o_n, result, d, D)


@jit
def key_gradient_kernel(
    q, k, v, mask, grad, log_sum, delta, grad_k, grad_v, scale, scale_log2, a, N, M, blocks,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, g_b, g_a, g_n, g_d,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys and a stretch of queries: keys are few and queries many, so one stretch would idle the GPU."""
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    columns = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k_tile = load_rows(k + image * k_b + of_image * k_a, columns, M, k_m, k_d, d, D)
    v_tile = load_rows(v + image * v_b + of_image * v_a, columns, M, v_m, v_d, d, D)
    q += image * q_b + of_image * q_a
    grad += image * g_b + of_image * g_a
    mask += image * m_b + of_image * m_a

    of_keys = tl.zeros((BLOCK_M, D), tl.float32)
    of_values = tl.zeros((BLOCK_M, D), tl.float32)
    first = tl.program_id(2) * ROWS
    for start in range(first, tl.minimum(first + ROWS, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        q_tile = load_rows(q, rows, N, q_n, q_d, d, D)
        grad_tile = load_rows(grad, rows, N, g_n, g_d, d, D)
        logarithm = tl.load(log_sum + head * N + rows, mask=rows < N, other=float("inf"))
        delta_tile = tl.load(delta + head * N + rows, mask=rows < N, other=0.0)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale_log2,
            HAS_MASK, INTERPRET, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(scores - logarithm[:, None])
        of_values += dot(tl.trans(weights.to(grad_tile.dtype)), grad_tile, INTERPRET, PRECISION)
        grad_weights = dot(grad_tile, tl.trans(v_tile), INTERPRET, PRECISION)
        grad_scores = weights * (grad_weights - delta_tile[:, None]) * scale
        of_keys += dot(tl.trans(grad_scores.to(q_tile.dtype)), q_tile, INTERPRET, PRECISION)
    at = (head * blocks + tl.program_id(2)) * M * d
    _store_rows(grad_k + at, columns, M, d, of_keys, d, D)
    _store_rows(grad_v + at, columns, M, d, of_values, d, D)
