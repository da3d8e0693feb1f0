"""Device functions that generated Triton modules include by text, one per operation that is not a single expression.

Tiles are float32 with C token rows, C a power of two. Every jit function is written for being cut out of this file:
it uses only `tl` and the other functions here.

Products of decays between two tokens s < t are split at the middle of the one block of 2b tokens that has t in its right
and s in its left half: a product up to t times a product from s. These "level products" are made once per chunk by
`levels_kernel`, b = 1, 2, 4 ...; at b = 1 they are 1. No logarithm, no division, no exponent to overflow. Decays that are known not
to be negative have functions of their own, in `running_ops`.

Functions whose name ends in `_kernel` are launched by the generated module as they are.
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
def level(levels, columns, i, N: tl.constexpr, C: tl.constexpr):
    """[C, lanes]: products of a decay to the middle of each block of 2 * 2^i tokens (see `levels_kernel`); 1 for i = 0."""
    table = levels + (tl.maximum(i - 1, 0) * C + tl.arange(0, C))[:, None] * N + columns[None, :]
    return tl.where(i > 0, tl.load(table).to(tl.float32), 1.0)


@triton.jit
def least(dtype: tl.constexpr):
    """Decays over half a chunk down to this are divided by, with operands of that dtype."""
    return 0.015625 if dtype == tl.float16 else 1e-6 if dtype == tl.float32 else 1e-18


@triton.jit
def from_middle(a, levels, columns, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr):
    """Factors [C, lanes] of x and y with which x y^T has the products of the decay a, split at the middle of the chunk for all
    pairs: what is on the wrong side of the middle is divided out. Last: is no factor too large for OP?"""
    D = level(levels, columns, LEVELS - 1, N, C)
    through = D * a
    right = right_half(C // 2, C)
    inverse = 1.0 / through
    fits = tl.min(tl.min(tl.abs(through), axis=1), axis=0) > least(OP)
    return tl.where(right, D, inverse), tl.where(right, inverse, D), fits


@triton.jit
def chain_gram(xs, ys, a, levels, columns, PARTS: tl.constexpr, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, C] for each x and y: sum_d x[t,d] y[s,d] prod of a[i,d] over s < i < t, for s < t. One product, if the decays of this
    chunk allow it (see `from_middle`); else one for each level, which needs x in right and y in left halves: one tile z with
    both, and z z^T."""
    up, down, fits = from_middle(a, levels, columns, N, C, LEVELS, OP)
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (tl.full((C, C), 0.0, tl.float32),)
    if fits:
        lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
        more = ()
        for j in tl.static_range(PARTS):
            all = tl.dot((xs[j] * up).to(OP), tl.trans((ys[j] * down).to(OP)), input_precision=IP)
            more = more + (tl.where(lower, all, 0.0),)
        sums = more
    else:
        for i in range(LEVELS):
            D = level(levels, columns, i, N, C)
            more = ()
            for j in tl.static_range(PARTS):
                z = (tl.where(right_half(1 << i, C), xs[j], ys[j]) * D).to(OP)
                far = tl.dot(z, tl.trans(z), input_precision=IP)
                more = more + (sums[j] + tl.where(halves(1 << i, C), far, 0.0),)
            sums = more
    return sums


@triton.jit
def chain_apply(m, y, a, levels, columns, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, lanes]: out[t,d] = sum over s < t of m[t,s] y[s,d] prod of a[i,d] over s < i < t."""
    up, down, fits = from_middle(a, levels, columns, N, C, LEVELS, OP)
    out = tl.full((C, columns.shape[0]), 0.0, tl.float32)
    if fits:
        lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
        out = up * tl.dot(tl.where(lower, m, 0.0).to(OP), (y * down).to(OP), input_precision=IP)
    else:
        for i in range(LEVELS):
            D = level(levels, columns, i, N, C)
            out += D * tl.dot(tl.where(halves(1 << i, C), m, 0.0).to(OP), (y * D).to(OP), input_precision=IP)
    return out


@triton.jit
def chain_apply_adjoint(m_t, x, a, levels, columns, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """[C, lanes]: out[s,d] = sum over t > s of m[t,s] x[t,d] prod of a[i,d] over s < i < t; `m_t` is m transposed."""
    up, down, fits = from_middle(a, levels, columns, N, C, LEVELS, OP)
    out = tl.full((C, columns.shape[0]), 0.0, tl.float32)
    if fits:
        upper = tl.arange(0, C)[:, None] < tl.arange(0, C)[None, :]
        out = down * tl.dot(tl.where(upper, m_t, 0.0).to(OP), (x * up).to(OP), input_precision=IP)
    else:
        for i in range(LEVELS):
            D = level(levels, columns, i, N, C)
            m = tl.where(tl.trans(halves(1 << i, C)), m_t, 0.0)
            out += D * tl.dot(m.to(OP), (x * D).to(OP), input_precision=IP)
    return out


@triton.jit
def chain_back(xs, ys, ms, transposed, levels, products, columns, kept, PARTS: tl.constexpr, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, OP: tl.constexpr, IP: tl.constexpr):
    """For each Gram matrix `chain_gram(x, y)` of one decay with the cotangent m: `chain_apply(m, y)`, then
    `chain_apply_adjoint(m_t, x)`. As there, a level needs one tile z, and one product of it with m and its transpose side
    by side. The gradients by the level products go to `products`; `kept` are the real lanes."""
    lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
    zero = tl.full((C, columns.shape[0]), 0.0, tl.float32)
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (zero, zero)
    for i in range(LEVELS):
        D = level(levels, columns, i, N, C)
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
def spans(levels, C: tl.constexpr, LEVELS: tl.constexpr):
    """[C, C]: prod of a[i] over s < i < t for s < t, else 0; a is [C, 1]."""
    t = tl.arange(0, C)
    out = tl.where(halves(1, C), 1.0, 0.0)
    for i in tl.static_range(1, LEVELS):
        D = tl.load(levels + (i - 1) * C + t)
        out += tl.where(halves(2**i, C), D[:, None] * D[None, :], 0.0)
    return out


@triton.jit
def spans_gate(spans, ct, OP: tl.constexpr, IP: tl.constexpr):
    """[C, 1]: the gradient of sum(ct * spans) by a: sum_{s<i<t} ct[t,s] spans[t,i] spans[i,s]."""
    through = tl.dot(ct.to(OP), tl.trans(spans.to(OP)), input_precision=IP)
    return tl.trans(tl.sum(spans * through, axis=0, keep_dims=True))


@triton.jit
def shift(x, fill, by: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """[C, N]: row t is row t - by, `fill` outside the chunk."""
    source = tl.arange(0, C)[:, None] - by
    index = tl.broadcast_to(tl.minimum(tl.maximum(source, 0), C - 1), (C, N))
    return tl.where((source >= 0) & (source < C), tl.gather(x, index, 0), fill)


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def combine_scan(a1, x1, a2, x2):
    """Two steps of h = a h + x as one."""
    return a1 * a2, a2 * x1 + x2


@triton.jit
def solve_kernel(system_ptr, inverse_ptr, counts, H, M: tl.constexpr, WIDE: tl.constexpr, IP: tl.constexpr):
    """(I - A)^-1 of every chunk and head, A strictly lower, M x M in float32: it is overwritten. Blocks of 16 rows by
    substitution, then one row of blocks after the other. Never a power series."""
    chunk = tl.program_id(0).to(tl.int64)
    if tl.load(counts + chunk) == 0:
        return
    base = (chunk * H + tl.program_id(1)) * M * M
    A = system_ptr + base
    r = tl.arange(0, 16)
    first = tl.arange(0, WIDE // 16) * 16  # of each block
    real = first < M
    T = tl.broadcast_to(tl.where(r[:, None] == r[None, :], 1.0, 0.0)[None, :, :], (WIDE // 16, 16, 16))
    for i in range(1, 16):
        row = tl.load(A + (first + i)[:, None] * M + first[:, None] + r[None, :], mask=real[:, None], other=0.0)
        row = tl.sum(row[:, :, None] * T, axis=1) + tl.where(r == i, 1.0, 0.0)[None, :]
        T = tl.where(r[None, :, None] == i, row[:, None, :], T)
    at = (first[:, None, None] + r[None, :, None]) * M + first[:, None, None] + r[None, None, :]
    tl.debug_barrier()
    tl.store(A + at, T, mask=real[:, None, None])
    tl.debug_barrier()
    line = tl.arange(0, WIDE)
    lower = (line[None, :] // 16 <= line[:, None] // 16) & (line < M)[:, None]
    for i in range(1, M // 16):
        above = tl.load(A + line[:, None] * M + line[None, :], mask=lower & (line[:, None] < 16 * i), other=0.0)
        rows = A + (16 * i + r)[:, None] * M
        left = tl.load(rows + line[None, :], mask=line[None, :] < 16 * i, other=0.0)
        own = tl.load(rows + (16 * i + r)[None, :])
        left = tl.dot(own, tl.dot(left, above, input_precision=IP), input_precision=IP)
        tl.debug_barrier()
        tl.store(rows + line[None, :], left, mask=line[None, :] < 16 * i)
        tl.debug_barrier()
    whole = tl.load(A + line[:, None] * M + line[None, :], mask=lower, other=0.0)
    inside = (line < M)[:, None] & (line < M)[None, :]
    tl.store(inverse_ptr + base + line[:, None] * M + line[None, :], whole, mask=inside)


@triton.jit
def levels_kernel(decay_ptr, levels_ptr, counts, H, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, FEW: tl.constexpr):
    """Products of a decay [C, N] for blocks of 2b tokens, b = 2, 4, ... C/2, then all before t, all after t:
    [LEVELS + 1, C, N] per chunk and head. Row t in the right half of a block holds prod of a[i] over mid <= i < t, in the left
    half over t < i < mid. WIDE levels at once; "all before" is a right half of C tokens, "all after" a left half. FEW: blocks of
    less than C tokens are left out where all readers take `from_middle`, with room for the rounding of what they read."""
    chunk = tl.program_id(0).to(tl.int64)
    if tl.load(counts + chunk) == 0:
        return
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    real = lane < H * N
    head, column = lane // N, lane % N
    a = decay_ptr + (chunk * H + head) * C * N + column
    table = levels_ptr + (chunk * H + head) * (LEVELS + 1) * C * N + column
    fits = False
    if FEW:
        one = tl.full((LANES,), 1.0, tl.float32)
        smallest, whole, half = one, one, one
        top, before, after = table + (LEVELS - 2) * C * N, table + (LEVELS - 1) * C * N, table + LEVELS * C * N
        middle = tl.full((LANES,), C // 2, tl.int32)  # compared lane by lane: interpreted, `t` is a number, and bool no mask
        for t in tl.range(0, C, loop_unroll_factor=8):
            half = tl.where(t == C // 2, 1.0, half)
            tl.store(before + t * N, whole, mask=real)
            tl.store(top + t * N, half, mask=real & (t >= middle))
            decay = tl.load(a + t * N, mask=real, other=1.0)
            whole *= decay
            half *= decay
            smallest = tl.minimum(smallest, tl.where(t >= C // 2, tl.abs(half), 1.0))
        whole, half = one, one
        for back in tl.range(0, C, loop_unroll_factor=8):
            t = C - 1 - back
            half = tl.where(back == C // 2, 1.0, half)
            tl.store(after + t * N, whole, mask=real)
            tl.store(top + t * N, half, mask=real & (t < middle))
            decay = tl.load(a + t * N, mask=real, other=1.0)
            whole *= decay
            half *= decay
            smallest = tl.minimum(smallest, tl.where(t < C // 2, tl.abs(half), 1.0))
        fits = tl.min(smallest, axis=0) > 2 * least(levels_ptr.dtype.element_ty)
    if not fits:
        number = tl.arange(0, WIDE)
        b = (2 << number)[:, None]
        out = table[None, :] + (number * C * N)[:, None]
        always = (number == LEVELS - 1)[:, None]
        kept = real[None, :] & (number < LEVELS + 1)[:, None]
        F = tl.full((WIDE, LANES), 1.0, tl.float32)
        for t in tl.range(0, C, loop_unroll_factor=8):
            F = tl.where(t % b == 0, 1.0, F)
            tl.store(out + t * N, F, mask=kept & (((t // b) % 2 == 1) | always))
            F *= tl.load(a + t * N, mask=real, other=0.0)[None, :]
        Q = tl.full((WIDE, LANES), 1.0, tl.float32)
        for back in tl.range(0, C, loop_unroll_factor=8):
            t = C - 1 - back
            Q = tl.where((t + 1) % b == 0, 1.0, Q)
            tl.store(out + t * N, Q, mask=kept & ((t // b) % 2 == 0) & (always == 0))
            Q *= tl.load(a + t * N, mask=real, other=0.0)[None, :]


@triton.jit
def gate_kernel(decay_ptr, levels_ptr, products_ptr, gate_ptr, counts, H, N: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, PARTS: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """The gradient of a decay [C, N] from those of its level products: row recurrences, no division."""
    chunk = tl.program_id(0).to(tl.int64)
    if tl.load(counts + chunk) == 0:
        return
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    real = lane < H * N
    head, column = lane // N, lane % N
    at = (chunk * H + head) * C * N + column
    a, out = decay_ptr + at, gate_ptr + at
    number = tl.arange(0, WIDE)
    b = (2 << number)[:, None]
    table = ((chunk * H + head) * (LEVELS + 1) * C * N + column)[None, :] + (number * C * N)[:, None]
    before, after = (number == LEVELS - 1)[:, None], (number == LEVELS)[:, None]
    given = ((number < LEVELS - 1)[:, None] & PARTS) | (before & BEFORE) | (after & AFTER)
    kept = real[None, :] & given
    R = tl.zeros((WIDE, LANES), tl.float32)
    for back in tl.range(0, C, loop_unroll_factor=4):
        t = C - 1 - back
        mine = kept & (((t // b) % 2 == 1) | before)
        D = tl.load(levels_ptr + table + t * N, mask=mine, other=0.0).to(tl.float32)
        g = tl.load(products_ptr + table + t * N, mask=mine, other=0.0).to(tl.float32)
        R = tl.where((t + 1) % b == 0, 0.0, R)
        tl.store(out + t * N, tl.sum(R * D, axis=0), mask=real)
        R = g + tl.load(a + t * N, mask=real, other=0.0)[None, :] * R
    tl.debug_barrier()
    L = tl.zeros((WIDE, LANES), tl.float32)
    for t in tl.range(0, C, loop_unroll_factor=4):
        mine = kept & ((t // b) % 2 == 0) & (before == 0)
        D = tl.load(levels_ptr + table + t * N, mask=mine, other=0.0).to(tl.float32)
        g = tl.load(products_ptr + table + t * N, mask=mine, other=0.0).to(tl.float32)
        L = tl.where(t % b == 0, 0.0, L)
        found = tl.load(out + t * N, mask=real, other=0.0).to(tl.float32)
        tl.store(out + t * N, found + tl.sum(L * D, axis=0), mask=real)
        L = g + tl.load(a + t * N, mask=real, other=0.0)[None, :] * L
