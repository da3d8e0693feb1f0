"""Maps of tokens composed and applied, all tokens of a run at once: [B, H, C, rows, columns], tokens on axis 2.

Maps are a list of parts for each state, as in `chunk.maps`, None for 0; monoids go by their values there. Tokens are joined
in pairs, the pairs in pairs, and so on: a run takes log2(C) turns and as many compositions and applications as it has tokens.
Where a CPU has enough to do with the states of one token, they are taken one after the other, which composes nothing
(measured: see benchmarks/NOTES.md); so are matrices, whose products cost more than to apply them. Compiled files hold these
functions as text: no annotations.
"""

import torch

_SERIAL = 8  # tokens that are taken one by one
_WIDE = 2_048  # entries of a token's state from which on a CPU takes all tokens one by one
_DEAR = ("matrix",)  # maps that cost more to compose than to apply: a CPU takes these tokens one by one


def entering_tokens(monoid, maps, start, length):
    """What enters each token [B, H, C, ...] and what leaves the last [B, H, ...]."""
    first = [s.unsqueeze(2) for s in start]
    parts = [p for row in maps for p in row if p is not None]
    batch = torch.broadcast_shapes(first[0].shape[:2], *(p.shape[:2] for p in parts))
    first = [s.expand(*batch, 1, *s.shape[3:]) for s in first]
    spread = [[None if p is None else p.expand(*p.shape[:2], length, *p.shape[3:]) for p in row] for row in maps]
    after = _after(monoid, spread, first, length)
    return (
        [torch.cat([s, a[:, :, :-1]], 2) for s, a in zip(first, after, strict=True)],
        [a[:, :, -1] for a in after],
    )


def _after(monoid, maps, start, length):
    """What leaves each token."""
    compose, apply = _TABLE[monoid]
    wide = monoid in _DEAR or start[0].numel() >= _WIDE
    if length <= _SERIAL or (start[0].device.type == "cpu" and wide):
        rows = []
        for t in range(length):
            start = apply(_every(maps, slice(t, t + 1)), start)
            rows.append(start)
        return [torch.cat(xs, 2) for xs in zip(*rows, strict=True)]
    even, odd = _every(maps, slice(0, None, 2)), _every(maps, slice(1, None, 2))
    pairs = compose(odd, _every(even, slice(0, length // 2)))
    second = _after(monoid, pairs, start, length // 2)
    before = [torch.cat([s, x[:, :, : (length - 1) // 2]], 2) for s, x in zip(start, second, strict=True)]
    found = []
    for x, y in zip(apply(even, before), second, strict=True):
        out = x.new_empty(*y.shape[:2], length, *y.shape[3:])
        out[:, :, 0::2], out[:, :, 1::2] = x, y
        found.append(out)
    return found


def _every(maps, tokens):
    return [[None if p is None else p[:, :, tokens] for p in row] for row in maps]


# ------------------------------------------------------------------------------------------------ monoids


def _times(x, y):
    return None if x is None or y is None else x * y


def _plus(x, y):
    return y if x is None else x if y is None else x + y


def _affine_after(second, first):
    n = len(first)
    found = []
    for row in second:
        parts = [*(None for _ in first), row[n]]
        for j in range(n + 1):
            for k in range(n):
                parts[j] = _plus(parts[j], _times(row[k], first[k][j]))
        found.append(parts)
    return found


def _affine(maps, states):
    found = []
    for row in maps:
        total = row[-1]
        for a, h in zip(row, states, strict=False):
            if a is not None:
                total = a * h if total is None else torch.addcmul(total, a, h)
        found.append(torch.zeros_like(states[0]) if total is None else total.expand_as(states[0]))
    return found


def _zero(x, like):
    return like.new_zeros((1,) * like.dim()) if x is None else x


def _clip_after(second, first):
    (a, b, low, high), (p, q, down, up) = second[0], first[0]
    shift = _zero(b, low)
    if a is None:
        constant = [None, shift.maximum(low).minimum(high), low, high]
        return [constant]
    ends = [_scaled_bound(a, _zero(x, low), _zero(y, low)) + shift for x, y in ((down, up), (up, down))]
    return [[_times(a, p), _plus(_times(a, q), b), *(e.maximum(low).minimum(high) for e in ends)]]


def _scaled_bound(a, if_up, if_down):
    """a times the bound that its sign makes this one; 0 for a = 0, where both are."""
    return torch.where(a > 0, if_up * a, torch.where(a < 0, if_down * a, 0.0))


def _clip(maps, states):
    ((a, b, low, high),), (h,) = maps, states
    x = _plus(_times(a, h), b)
    return [_zero(x, h).maximum(_zero(low, h)).minimum(_zero(high, h)).expand_as(h)]


def _log_sum_after(second, first):
    (a, b), (p, q) = second[0], first[0]
    return [[_plus(a, p), torch.logaddexp(_zero(_plus(q, a), q), b)]]


def _log_sum(maps, states):
    ((a, b),), (h,) = maps, states
    return [torch.logaddexp(h if a is None else h + a, _zero(b, h)).expand_as(h)]


def _moebius_after(second, first):
    (a, b, c, d), (p, q, r, s) = second[0], first[0]
    parts = [
        _plus(_times(a, p), _times(b, r)),
        _plus(_times(a, q), _times(b, s)),
        _plus(_times(c, p), _times(d, r)),
        _plus(_times(c, q), _times(d, s)),
    ]
    found = [x for x in parts if x is not None]
    largest = found[0].abs()
    for x in found[1:]:
        largest = largest.maximum(x.abs())
    largest = torch.where(largest > 0, largest, 1.0)  # a common factor means nothing: kept near 1
    return [[None if x is None else x / largest for x in parts]]


def _moebius(maps, states):
    ((p, q, r, s),), (h,) = maps, states
    above, below = _plus(_times(p, h), q), _plus(_times(r, h), s)
    return [(_zero(above, h) / _zero(below, h)).expand_as(h)]


def _chained(x, y):
    """The product of two matrices, one of which may be a number; None is 0."""
    if x is None or y is None:
        return None
    numbers = x.shape[3:] == (1, 1) or y.shape[3:] == (1, 1)
    return x * y if numbers else x @ y


def _matrix_after(second, first):
    (l2, r2, b2), (l1, r1, b1) = second[0], first[0]
    return [[_chained(l2, l1), _chained(r1, r2), _plus(_chained(_chained(l2, b1), r2), b2)]]


def _matrix(maps, states):
    ((left, right, b),), (h,) = maps, states
    return [_zero(_plus(_chained(_chained(left, h), right), b), h).expand_as(h)]


_TABLE = {
    "affine": (_affine_after, _affine),
    "clip": (_clip_after, _clip),
    "log-sum-exp": (_log_sum_after, _log_sum),
    "moebius": (_moebius_after, _moebius),
    "matrix": (_matrix_after, _matrix),
}


# ------------------------------------------------------------------------------------------------ products


def dotted(x, y):
    """x y; a matrix that all tokens share meets their vectors in one product."""
    if x.shape[2] == 1 and y.shape[2] != 1 and y.shape[4] == 1:
        return (y.squeeze(4) @ x.squeeze(2).mT).unsqueeze(4)
    if y.shape[2] == 1 and x.shape[2] != 1 and x.shape[3] == 1:
        return (x.squeeze(3) @ y.squeeze(2)).unsqueeze(3)
    return x @ y


def contracted(x, y, axis):
    """The sum of x y over an axis; a matrix that all tokens share meets their vectors in one product."""
    for v, m in ((x, y), (y, x)):
        if m.shape[2] == 1 and v.shape[2] != 1 and v.shape[axis] == m.shape[axis]:
            if axis == -1 and v.shape[3] == 1:
                return (v.squeeze(3) @ m.squeeze(2).mT).unsqueeze(4)
            if axis == -2 and v.shape[4] == 1:
                return (v.squeeze(4) @ m.squeeze(2)).unsqueeze(3)
    return (x * y).sum(axis, keepdim=True)


# ------------------------------------------------------------------------------------------------ with a gradient


class Scanned(torch.autograd.Function):
    """apply(monoid, parts of each map, tokens, *parts row after row, *start) gives what enters each token, then what leaves
    the last. The gradient is an affine scan from the last token; it composes none of the maps."""

    @staticmethod
    def forward(ctx, monoid, width, length, *tensors):
        ctx.monoid, ctx.width = monoid, width
        maps, start = Scanned.parts(width, tensors)
        into, out = entering_tokens(monoid, maps, start, length)
        ctx.save_for_backward(*tensors, *into)
        return (*into, *(x.clone() for x in out))

    @staticmethod
    def parts(width, tensors):
        count = len(tensors) // (width + 1)
        return [list(tensors[i * width : (i + 1) * width]) for i in range(count)], list(tensors[count * width :])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        count = len(gradients) // 2
        saved = ctx.saved_tensors  # read once: checkpointing makes them again for one read
        given, into = saved[:-count], saved[-count:]
        length = into[0].shape[2]
        with torch.enable_grad():
            leaves = [None if x is None else x.detach().requires_grad_() for x in given[:-count]]
            seen = [x.detach().requires_grad_() for x in into]
            maps, _ = Scanned.parts(ctx.width, [*leaves, *seen])
            after = _TABLE[ctx.monoid][1](maps, seen)
        if ctx.monoid == "matrix":
            back, own = "matrix", [[None if x is None else x.mT for x in given[:2]]]
        else:
            own = [torch.autograd.grad(y, seen, torch.ones_like(y), retain_graph=True, allow_unused=True) for y in after]
            back, own = "affine", zip(*own, strict=True)
        rows = [[*(None if x is None else x.flip(2) for x in row), gradients[j].flip(2)] for j, row in enumerate(own)]
        behind, first = entering_tokens(back, rows, gradients[count:], length)
        wanted = [x for x in leaves if x is not None]
        found = iter(torch.autograd.grad(after, wanted, [x.flip(2) for x in behind], allow_unused=True))
        return (None, None, None, *(None if x is None else next(found) for x in leaves), *first)


def scanned(monoid, maps, start, length):
    """What enters each token [B, H, T, rows, columns], then what leaves the last [B, H, rows, columns], of each state."""
    parts = [x if x is None or x.dim() == 5 else x[None, None, None] for row in maps for x in row]
    return Scanned.apply(monoid, len(maps[0]), length, *parts, *start)
