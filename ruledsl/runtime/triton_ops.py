"""Device functions that generated Triton modules include by text, one per operation that is not a single expression.

Tiles are float32 with C token rows, C a power of two. Every jit function is written for being cut out of this file:
it uses only `tl` and the other functions here.

Products of decays between two tokens come from doubling: for blocks of b rows, F[t] is the product over the block's
rows before t, Q[s] the product over the rows after s, and `whole` the product over the block; a pair (t, s) in the
right and left half of a block of 2b rows has the factor F[t] Q[s]. No logarithm, no division, no exponent to overflow.
"""

import triton
import triton.language as tl


@triton.jit
def half_sum(x, keep, b: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """Rows of a block of 2b: the matching row of the half where `keep` holds, in both halves."""
    y = tl.reshape(tl.where(keep, x, 0.0), (C // (2 * b), 2, b * N))
    y = tl.broadcast_to(tl.sum(y, axis=1, keep_dims=True), (C // (2 * b), 2, b * N))
    return tl.reshape(y, (C, N))


@triton.jit
def block_sum(x, keep, b: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """Sum over the kept rows of each block of 2b rows, on every row of the block."""
    y = tl.reshape(tl.where(keep, x, 0.0), (C // (2 * b), 2 * b, N))
    y = tl.broadcast_to(tl.sum(y, axis=1, keep_dims=True), (C // (2 * b), 2 * b, N))
    return tl.reshape(y, (C, N))


@triton.jit
def halves(b: tl.constexpr, C: tl.constexpr):
    """Row masks at block size b: is the row in the right half of its block of 2b, and the pairs (t right, s left)."""
    t = tl.arange(0, C)
    right = ((t // b) % 2) == 1
    same = (t // (2 * b))[:, None] == (t // (2 * b))[None, :]
    pair = same & right[:, None] & (right[None, :] == 0)
    return right[:, None], pair


@triton.jit
def doubled(F, Q, whole, b: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """The products for blocks of 2b rows from those for b."""
    right, _ = halves(b, C)
    before = half_sum(whole, right == 0, b, C, N)
    after = half_sum(whole, right, b, C, N)
    return tl.where(right, F * before, F), tl.where(right, Q, Q * after), before * after


@triton.jit
def chain_gram(x, y, a, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, C]: sum_d x[t,d] y[s,d] prod of a[i,d] over s < i < t, for s < t."""
    F = tl.full((C, N), 1.0, tl.float32)
    Q = tl.full((C, N), 1.0, tl.float32)
    whole = a
    out = tl.zeros((C, C), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        product = tl.dot((x * F).to(OP), tl.trans((y * Q).to(OP)), input_precision=IP)
        out += tl.where(pair, product, 0.0)
        F, Q, whole = doubled(F, Q, whole, 2**level, C, N)
    return out


@triton.jit
def chain_apply(m, y, a, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, N]: out[t,d] = sum over s < t of m[t,s] y[s,d] prod of a[i,d] over s < i < t."""
    F = tl.full((C, N), 1.0, tl.float32)
    Q = tl.full((C, N), 1.0, tl.float32)
    whole = a
    out = tl.zeros((C, N), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        out += F * tl.dot(tl.where(pair, m, 0.0).to(OP), (y * Q).to(OP), input_precision=IP)
        F, Q, whole = doubled(F, Q, whole, 2**level, C, N)
    return out


@triton.jit
def chain_apply_adjoint(m_t, x, a, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, N]: out[s,d] = sum over t > s of m[t,s] x[t,d] prod of a[i,d] over s < i < t; `m_t` is m transposed."""
    F = tl.full((C, N), 1.0, tl.float32)
    Q = tl.full((C, N), 1.0, tl.float32)
    whole = a
    out = tl.zeros((C, N), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        out += Q * tl.dot(tl.where(tl.trans(pair), m_t, 0.0).to(OP), (x * F).to(OP), input_precision=IP)
        F, Q, whole = doubled(F, Q, whole, 2**level, C, N)
    return out


@triton.jit
def undoubled(gF, gQ, gwhole, F, Q, whole, b: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """Adjoint of `doubled`: cotangents of the products for 2b rows to those for b."""
    right, _ = halves(b, C)
    before = half_sum(whole, right == 0, b, C, N)
    after = half_sum(whole, right, b, C, N)
    to_left = block_sum(gF * F, right, b, C, N) + gwhole * after
    to_right = block_sum(gQ * Q, right == 0, b, C, N) + gwhole * before
    return tl.where(right, gF * before, gF), tl.where(right, gQ, gQ * after), tl.where(right, to_right, to_left)


@triton.jit
def chain_gate(x, y, a, ct, ct_t, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, N]: the gradient of sum(ct * chain_gram(x, y, a)) by a; `ct_t` is ct transposed."""
    gF = tl.zeros((C, N), tl.float32)
    gQ = tl.zeros((C, N), tl.float32)
    gwhole = tl.zeros((C, N), tl.float32)
    for i in tl.static_range(LEVELS):
        F = tl.full((C, N), 1.0, tl.float32)
        Q = tl.full((C, N), 1.0, tl.float32)
        whole = a
        for level in tl.static_range(LEVELS - 1 - i):
            F, Q, whole = doubled(F, Q, whole, 2**level, C, N)
        gF, gQ, gwhole = undoubled(gF, gQ, gwhole, F, Q, whole, 2 ** (LEVELS - 1 - i), C, N)
        right, pair = halves(2 ** (LEVELS - 1 - i), C)
        gF += x * tl.dot(tl.where(pair, ct, 0.0).to(OP), (y * Q).to(OP), input_precision=IP)
        gQ += y * tl.dot(tl.where(tl.trans(pair), ct_t, 0.0).to(OP), (x * F).to(OP), input_precision=IP)
    return gwhole


@triton.jit
def spans(a, C: tl.constexpr, LEVELS: tl.constexpr):
    """[C, C]: prod of a[i] over s < i < t for s < t, else 0; a is [C, 1]."""
    F = tl.full((C, 1), 1.0, tl.float32)
    Q = tl.full((C, 1), 1.0, tl.float32)
    whole = a
    out = tl.zeros((C, C), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        out += tl.where(pair, F * tl.trans(Q), 0.0)
        F, Q, whole = doubled(F, Q, whole, 2**level, C, 1)
    return out


@triton.jit
def spans_gate(a, ct, C: tl.constexpr, LEVELS: tl.constexpr):
    """[C, 1]: the gradient of sum(ct * spans(a)) by a."""
    gF = tl.zeros((C, 1), tl.float32)
    gQ = tl.zeros((C, 1), tl.float32)
    gwhole = tl.zeros((C, 1), tl.float32)
    for i in tl.static_range(LEVELS):
        F = tl.full((C, 1), 1.0, tl.float32)
        Q = tl.full((C, 1), 1.0, tl.float32)
        whole = a
        for level in tl.static_range(LEVELS - 1 - i):
            F, Q, whole = doubled(F, Q, whole, 2**level, C, 1)
        gF, gQ, gwhole = undoubled(gF, gQ, gwhole, F, Q, whole, 2 ** (LEVELS - 1 - i), C, 1)
        right, pair = halves(2 ** (LEVELS - 1 - i), C)
        kept = tl.where(pair, ct, 0.0)
        gF += tl.sum(kept * tl.trans(Q), axis=1, keep_dims=True)
        gQ += tl.trans(tl.sum(kept * F, axis=0, keep_dims=True))
    return gwhole


@triton.jit
def anchored(gx, gy, b: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """exp of the distance to the anchor, the last row of the left half of each block of 2b rows: of gx on right rows,
    of gy on left rows. Gates do not grow along the chunk, so no exponent is positive."""
    t = tl.arange(0, C)[:, None]
    right, _ = halves(b, C)
    anchor = block_sum(gy, t % (2 * b) == b - 1, b, C, N)
    return tl.exp(tl.minimum(tl.where(right, gx - anchor, anchor - gy), 0.0))


@triton.jit
def gram(x, y, gx, gy, INCL: tl.constexpr, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, C]: sum_d x[t,d] y[s,d] exp(gx[t,d] - gy[s,d]) for s < t (INCL: s <= t)."""
    out = tl.zeros((C, C), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        e = anchored(gx, gy, 2**level, C, N)
        out += tl.where(pair, tl.dot((x * e).to(OP), tl.trans((y * e).to(OP)), input_precision=IP), 0.0)
    if INCL:
        t = tl.arange(0, C)
        same = tl.sum(x * y * tl.exp(gx - gy), axis=1, keep_dims=True)
        out = tl.where(t[:, None] == t[None, :], same, out)
    return out


@triton.jit
def gram_apply(m, y, gx, gy, INCL: tl.constexpr, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, N]: out[t,d] = sum over s < t (INCL: s <= t) of m[t,s] y[s,d] exp(gx[t,d] - gy[s,d])."""
    out = tl.zeros((C, N), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        e = anchored(gx, gy, 2**level, C, N)
        out += tl.where(right, e, 0.0) * tl.dot(tl.where(pair, m, 0.0).to(OP), (y * e).to(OP), input_precision=IP)
    if INCL:
        t = tl.arange(0, C)
        own = tl.sum(tl.where(t[:, None] == t[None, :], m, 0.0), axis=1, keep_dims=True)
        out += own * y * tl.exp(gx - gy)
    return out


@triton.jit
def gram_apply_adjoint(m_t, x, gx, gy, INCL: tl.constexpr, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, N]: out[s,d] = sum over t > s (INCL: t >= s) of m[t,s] x[t,d] exp(gx[t,d] - gy[s,d]); `m_t` is m transposed."""
    out = tl.zeros((C, N), tl.float32)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        e = anchored(gx, gy, 2**level, C, N)
        out += tl.where(right, 0.0, e) * tl.dot(tl.where(tl.trans(pair), m_t, 0.0).to(OP), (x * e).to(OP), input_precision=IP)
    if INCL:
        t = tl.arange(0, C)
        own = tl.sum(tl.where(t[:, None] == t[None, :], m_t, 0.0), axis=1, keep_dims=True)
        out += own * x * tl.exp(gx - gy)
    return out


@triton.jit
def inverse(A, C: tl.constexpr, LEVELS: tl.constexpr, IP: tl.constexpr):
    """(I - A)^-1 for strictly lower A, by merging diagonal blocks: the inverse of a block of 2b rows from those of its
    halves is T + T A_21 T. Never a power series on the full tile."""
    t = tl.arange(0, C)
    T = tl.where(t[:, None] == t[None, :], 1.0, 0.0)
    for level in tl.static_range(LEVELS):
        right, pair = halves(2**level, C)
        below = tl.dot(tl.where(pair, A, 0.0), T, input_precision=IP)
        T += tl.dot(T, below, input_precision=IP)
    return T


@triton.jit
def shift(x, fill, by: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """[C, N]: row t is row t - by, `fill` outside the chunk."""
    source = tl.arange(0, C)[:, None] - by
    index = tl.broadcast_to(tl.minimum(tl.maximum(source, 0), C - 1), (C, N))
    return tl.where((source >= 0) & (source < C), tl.gather(x, index, 0), fill)


@triton.jit
def combine_scan(a1, x1, a2, x2):
    """Two steps of h = a h + x as one."""
    return a1 * a2, a2 * x1 + x2
