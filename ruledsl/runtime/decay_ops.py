"""Device functions for decays between the tokens of a chunk, for generated Triton modules as those of `triton_ops` are.

Products of a diagonal decay between two tokens s < t are split at the middle of the one block of 2b tokens that has t in its right
and s in its left half: a product up to t times a product from s. These "level products" are made once per chunk by
`triton_ops.levels_kernel`, b = 1, 2, 4 ...; at b = 1 they are 1. No logarithm, no division, no exponent to overflow. Of decays that are
known not to be negative they are exponentials of sums of logarithms, made where they are wanted. Most chunks need neither: where
their decays allow it, all pairs are split at the middle of the chunk.

What makes such products takes a decay as a tuple, of `tabled` or of `running`: its last three say whether that is so, and hold the
factors. `FITS` is what is known of it, N the columns of the tables, 0 without.
"""

import triton
import triton.language as tl


@triton.jit
def halves(b, C: tl.constexpr):
    """The pairs (t, s) of tokens in the right and the left half of one block of 2b tokens."""
    t = tl.arange(0, C)
    same = (t // (2 * b))[:, None] == (t // (2 * b))[None, :]
    right = ((t // b) % 2) == 1
    return same & right[:, None] & (right[None, :] == 0)


@triton.jit
def across(b, C: tl.constexpr):
    """The pairs of tokens in different halves of one block of 2b tokens, in either order."""
    t = tl.arange(0, C) // b
    return (t[:, None] ^ t[None, :]) == 1


@triton.jit
def right_half(b, C: tl.constexpr):
    """[C, 1]: is a token in the right half of its block of 2b tokens?"""
    return ((tl.arange(0, C) // b) % 2 == 1)[:, None]


@triton.jit
def table(levels, columns, i, N: tl.constexpr, C: tl.constexpr):
    """[C, lanes]: products of a decay to the middle of each block of 2 * 2^i tokens (see `levels_kernel`); 1 for i = 0."""
    table = levels + (tl.maximum(i - 1, 0) * C + tl.arange(0, C))[:, None] * N + columns[None, :]
    return tl.where(i > 0, tl.load(table).to(tl.float32), 1.0)


@triton.jit
def log_sums(mask, logs, OP: tl.constexpr):
    """[C, lanes]: for every token the sum of the logarithms that the mask [C, C] selects; in 16 bits as two parts of bfloat16,
    16 bits of each logarithm together."""
    if OP == tl.float32:
        return tl.dot(tl.where(mask, 1.0, 0.0), logs, input_precision="tf32x3")
    else:
        ones = tl.where(mask, 1.0, 0.0).to(tl.bfloat16)
        high = logs.to(tl.bfloat16)
        return tl.dot(ones, (logs - high.to(tl.float32)).to(tl.bfloat16), acc=tl.dot(ones, high))


@triton.jit
def level(decay, i, N: tl.constexpr, C: tl.constexpr, OP: tl.constexpr):
    """[C, lanes]: products of a decay to the middle of each block of 2 * 2^i tokens, 1 for i = 0: from the tables of N columns that
    `decay` begins with (see `levels_kernel`), or, with N = 0, as exponentials of sums of its logarithms."""
    if N > 0:
        return table(decay[0], decay[1], i, N, C)
    else:
        t = tl.arange(0, C)
        row, column = t[:, None], t[None, :]
        between = tl.where(right_half(1 << i, C), column < row, column > row)
        return tl.exp(log_sums(((row ^ column) >> i == 0) & between, decay[2], OP))


@triton.jit
def least(dtype: tl.constexpr):
    """Decays over half a chunk down to this are divided by, with operands of that dtype."""
    return 0.015625 if dtype == tl.float16 else 1e-6 if dtype == tl.float32 else 1e-18


@triton.jit
def tabled(a, levels, columns, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr):
    """Of a decay with tables: where they are (two of them), the decay; do factors of x and y with which x y^T has its products, split
    at the middle of the chunk for all pairs, fit OP; and those two: what is on the wrong side of the middle is divided out."""
    D = table(levels, columns, LEVELS - 1, N, C)
    through = D * a
    right = right_half(C // 2, C)
    inverse = 1.0 / through
    fits = tl.min(tl.min(tl.abs(through), axis=1), axis=0) > least(OP)
    return levels, columns, a, fits, tl.where(right, D, inverse), tl.where(right, inverse, D)


@triton.jit
def reach(dtype: tl.constexpr):
    """Up to this a sum of logarithms over half a chunk may have an exponential that operands of that dtype are scaled with, up or
    down: of bfloat16 that of 1e32, of float32 the one whose own rounding is still small."""
    return 4.1 if dtype == tl.float16 else 13.8 if dtype == tl.float32 else 73.6


@triton.jit
def running(logs, GROWS: tl.constexpr, FITS: tl.constexpr, C: tl.constexpr, OP: tl.constexpr):
    """Of a decay by its logarithms [C, lanes], which may exceed 0 if it GROWS: the products of all before and of all after each
    token; the logarithms; are factors of x and y, split at the middle of the chunk for all pairs, in reach of OP; and those
    two. `FITS`: that they are, that they are not (then those two are not needed), or None: to be found out."""
    until = tl.cumsum(logs, axis=0)
    total = tl.sum(logs, axis=0, keep_dims=True)
    second = tl.sum(tl.where(right_half(C // 2, C), logs, 0.0), axis=0, keep_dims=True)
    first = total - second
    if OP == tl.float32:
        rest = tl.cumsum(logs, axis=0, reverse=True) - logs
    else:
        rest = total - until
    if GROWS:  # no sum between a token and the middle is larger than the sums of what it is made of
        late = tl.sum(tl.where(right_half(C // 2, C), tl.abs(logs), 0.0), axis=0, keep_dims=True)
        most = tl.maximum(late, tl.sum(tl.abs(logs), axis=0, keep_dims=True) - late)
    else:
        most = tl.maximum(-first, -second)
    fits = tl.max(tl.max(most, axis=1), axis=0) < reach(OP)
    up, down = tl.exp(until - logs - first), tl.exp(rest - second)
    if FITS:
        before, after = up * tl.exp(first), down * tl.exp(second)
    else:
        before, after = tl.exp(until - logs), tl.exp(rest)
    return before, after, logs, fits, up, down


@triton.jit
def chain_gram(xs, ys, decay, PARTS: tl.constexpr, FITS: tl.constexpr, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, C] for each x and y: sum_d x[t,d] y[s,d] prod of a[i,d] over s < i < t, for s < t. One product, if the decays of this
    chunk fit; else one for each level, which needs x in right and y in left halves: one tile z with both, and z z^T."""
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (tl.full((C, C), 0.0, tl.float32),)
    if decay[3] if FITS is None else FITS:
        up, down = decay[4], decay[5]
        lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
        more = ()
        for j in tl.static_range(PARTS):
            all = tl.dot((xs[j] * up).to(OP), tl.trans((ys[j] * down).to(OP)), input_precision=IP)
            more = more + (tl.where(lower, all, 0.0),)
        sums = more
    else:
        for i in range(LEVELS):
            D = level(decay, i, N, C, OP)
            more = ()
            for j in tl.static_range(PARTS):
                z = (tl.where(right_half(1 << i, C), xs[j], ys[j]) * D).to(OP)
                far = tl.dot(z, tl.trans(z), input_precision=IP)
                more = more + (sums[j] + tl.where(halves(1 << i, C), far, 0.0),)
            sums = more
    return sums


@triton.jit
def chain_apply(m, y, decay, ADJOINT: tl.constexpr, FITS: tl.constexpr, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, lanes]: out[t,d] = sum over s < t of m[t,s] y[s,d] prod of a[i,d] over s < i < t. ADJOINT: with m transposed, out[s,d] =
    sum over t > s of m[s,t] y[t,d] times the same."""
    out = tl.full((C, decay[4].shape[1]), 0.0, tl.float32)
    t = tl.arange(0, C)
    if decay[3] if FITS is None else FITS:
        kept = t[:, None] < t[None, :] if ADJOINT else t[:, None] > t[None, :]
        outer, inner = (decay[5], decay[4]) if ADJOINT else (decay[4], decay[5])
        out = outer * tl.dot(tl.where(kept, m, 0.0).to(OP), (y * inner).to(OP), input_precision=IP)
    else:
        for i in range(LEVELS):
            D = level(decay, i, N, C, OP)
            kept = tl.trans(halves(1 << i, C)) if ADJOINT else halves(1 << i, C)
            out += D * tl.dot(tl.where(kept, m, 0.0).to(OP), (y * D).to(OP), input_precision=IP)
    return out


@triton.jit
def chain_back(xs, ys, ms, transposed, levels, products, columns, kept, PARTS: tl.constexpr, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """For each Gram matrix `chain_gram(x, y)` of one decay with the cotangent m: `chain_apply(m, y)`, then
    the adjoint `chain_apply(m_t, x)`. As there, a level needs one tile z, and one product of it with m and its transpose side
    by side. The gradients by the level products go to `products`; `kept` are the real lanes."""
    lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
    zero = tl.full((C, columns.shape[0]), 0.0, tl.float32)
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (zero, zero)
    for i in range(LEVELS):
        D = table(levels, columns, i, N, C)
        right = right_half(1 << i, C)
        found = zero
        more = ()
        for j in tl.static_range(PARTS):
            w = tl.where(across(1 << i, C), tl.where(lower, ms[j], transposed[j]), 0.0)
            z = tl.where(right, xs[j], ys[j])
            u = tl.dot(w.to(OP), (z * D).to(OP), input_precision=IP)
            found += u * z
            more = more + (sums[2 * j] + tl.where(right, D * u, 0.0), sums[2 * j + 1] + tl.where(right, 0.0, D * u))
        sums = more
        if i > 0:
            tl.store(products + ((i - 1) * C + tl.arange(0, C))[:, None] * N + columns[None, :], found, mask=kept[None, :])
    return sums


@triton.jit
def chain_back_log(xs, ys, ms, transposed, decay, PARTS: tl.constexpr, FITS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """As `chain_back`, of a `running` decay; last, instead of the products, two tiles for `log_gate`: x dx less y dy, and y dy. They are made of rounded
    operands, so that a pair of tokens adds the same number to both, and what does not lie between the two cancels."""
    lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
    zero = tl.full((C, decay[4].shape[1]), 0.0, tl.float32)
    sums = ()
    for _ in tl.static_range(2 * PARTS + 2):
        sums = sums + (zero,)
    if decay[3] if FITS is None else FITS:
        up, down = decay[4], decay[5]
        difference, left = zero, zero
        more = ()
        for j in tl.static_range(PARTS):
            x, y = (xs[j] * up).to(OP), (ys[j] * down).to(OP)
            u = tl.dot(tl.where(lower, ms[j], 0.0).to(OP), y, input_precision=IP)
            w = tl.dot(tl.where(tl.trans(lower), transposed[j], 0.0).to(OP), x, input_precision=IP)
            difference += u * x.to(tl.float32) - w * y.to(tl.float32)
            left += w * y.to(tl.float32)
            more = more + (up * u, down * w)
        sums = more + (difference, left)
    else:
        for i in range(LEVELS):
            D = level(decay, i, 0, C, OP)
            right = right_half(1 << i, C)
            found = zero
            more = ()
            for j in tl.static_range(PARTS):
                w = tl.where(across(1 << i, C), tl.where(lower, ms[j], transposed[j]), 0.0)
                z = (tl.where(right, xs[j], ys[j]) * D).to(OP)
                u = tl.dot(w.to(OP), z, input_precision=IP)
                found += u * z.to(tl.float32)
                more = more + (sums[2 * j] + tl.where(right, D * u, 0.0), sums[2 * j + 1] + tl.where(right, 0.0, D * u))
            difference = sums[2 * PARTS] + tl.where(right, found, -found)
            sums = more + (difference, sums[2 * PARTS + 1] + tl.where(right, 0.0, found))
    return sums


@triton.jit
def log_gate(difference, left):
    """[C, lanes]: the gradient by the logarithm of a decay. A pair of tokens s < t adds what it has to `difference` at t,
    subtracts it at s, and adds it to `left` at s: for i between them, the sum over the tokens after i less `left`."""
    return tl.cumsum(difference, axis=0, reverse=True) - difference - left
