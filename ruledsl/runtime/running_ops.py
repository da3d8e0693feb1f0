"""Device functions for diagonal decays by their logarithms, for generated Triton modules as those of `triton_ops` are.

`running` makes the products of a decay that a chunk's matrices need from running sums of its logarithms; the others are what
`chain_gram` and its like in `triton_ops` are for level products from memory. Where a chunk's products have no common
factors in reach of the operands' dtype, level products are made here as well, as exponentials of sums of logarithms, which
a mask times the logarithms gives.
"""

import triton
import triton.language as tl

from ruledsl.runtime.triton_ops import across, halves, right_half


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
def reach(dtype: tl.constexpr):
    """Up to this a sum of logarithms over half a chunk may have an exponential that operands of that dtype are scaled with, up or
    down: of bfloat16 that of 1e32, of float32 the one whose own rounding is still small."""
    return 4.1 if dtype == tl.float16 else 13.8 if dtype == tl.float32 else 73.6


@triton.jit
def running(logs, GROWS: tl.constexpr, FITS: tl.constexpr, C: tl.constexpr, OP: tl.constexpr):
    """Of a decay by its logarithms [C, lanes], which may exceed 0 if it GROWS: the products of all before and of all after each token; the logarithms;
    whether they fit: whether factors of x and y split at the middle of the chunk for all pairs, the last two (see `from_middle`), are
    in reach of OP. `FITS`: that they do, that they do not (then those two are not needed), or None: to be found out."""
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
def running_level(run, i, C: tl.constexpr, OP: tl.constexpr):
    """As `level`: products of the decay to the middle of each block of 2 * 2^i tokens."""
    t = tl.arange(0, C)
    row, column = t[:, None], t[None, :]
    between = tl.where(right_half(1 << i, C), column < row, column > row)
    return tl.exp(log_sums(((row ^ column) >> i == 0) & between, run[2], OP))


@triton.jit
def running_gram(xs, ys, run, PARTS: tl.constexpr, FITS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """As `chain_gram`."""
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (tl.full((C, C), 0.0, tl.float32),)
    if run[3] if FITS is None else FITS:
        up, down = run[4], run[5]
        lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
        more = ()
        for j in tl.static_range(PARTS):
            all = tl.dot((xs[j] * up).to(OP), tl.trans((ys[j] * down).to(OP)), input_precision=IP)
            more = more + (tl.where(lower, all, 0.0),)
        sums = more
    else:
        for i in range(LEVELS):
            D = running_level(run, i, C, OP)
            more = ()
            for j in tl.static_range(PARTS):
                z = (tl.where(right_half(1 << i, C), xs[j], ys[j]) * D).to(OP)
                far = tl.dot(z, tl.trans(z), input_precision=IP)
                more = more + (sums[j] + tl.where(halves(1 << i, C), far, 0.0),)
            sums = more
    return sums


@triton.jit
def running_apply(m, y, run, FITS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """As `chain_apply`."""
    out = tl.full((C, run[2].shape[1]), 0.0, tl.float32)
    if run[3] if FITS is None else FITS:
        up, down = run[4], run[5]
        lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
        out = up * tl.dot(tl.where(lower, m, 0.0).to(OP), (y * down).to(OP), input_precision=IP)
    else:
        for i in range(LEVELS):
            D = running_level(run, i, C, OP)
            out += D * tl.dot(tl.where(halves(1 << i, C), m, 0.0).to(OP), (y * D).to(OP), input_precision=IP)
    return out


@triton.jit
def running_apply_adjoint(m_t, x, run, FITS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """As `chain_apply_adjoint`."""
    out = tl.full((C, run[2].shape[1]), 0.0, tl.float32)
    if run[3] if FITS is None else FITS:
        up, down = run[4], run[5]
        upper = tl.arange(0, C)[:, None] < tl.arange(0, C)[None, :]
        out = down * tl.dot(tl.where(upper, m_t, 0.0).to(OP), (x * up).to(OP), input_precision=IP)
    else:
        for i in range(LEVELS):
            D = running_level(run, i, C, OP)
            m = tl.where(tl.trans(halves(1 << i, C)), m_t, 0.0)
            out += D * tl.dot(m.to(OP), (x * D).to(OP), input_precision=IP)
    return out


@triton.jit
def running_back(xs, ys, ms, transposed, run, PARTS: tl.constexpr, FITS: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """As `chain_back`; last, instead of the products, two tiles for `log_gate`: x dx less y dy, and y dy. They are made of rounded
    operands, so that a pair of tokens adds the same number to both, and what does not lie between the two cancels."""
    lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
    zero = tl.full((C, run[2].shape[1]), 0.0, tl.float32)
    sums = ()
    for _ in tl.static_range(2 * PARTS + 2):
        sums = sums + (zero,)
    if run[3] if FITS is None else FITS:
        up, down = run[4], run[5]
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
            D = running_level(run, i, C, OP)
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
