"""Device functions that generated Triton modules include by text, one per operation that is not a single expression.

Tiles are float32 with C token rows, C a power of two. Every jit function is written for being cut out of this file:
it uses only `tl` and the other functions here.

Those for decays between tokens are in `decay_ops`.

Functions whose name ends in `_kernel` are launched by the generated module as they are.
"""

import triton
import triton.language as tl

from ruledsl.runtime.decay_ops import halves, least


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
