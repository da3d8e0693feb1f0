"""The non-trivial operations of `chunk.program` on torch tensors [..., rows, columns]; batch axes spread.

Each function is named after its operation, takes the arguments and then the attribute of the node, needs nothing but
torch, and works for any floating dtype and any number of tokens: generated torch modules contain the text of these
functions. Nothing is changed in place, so every function can be differentiated and mapped by torch.

Decayed products go by halves: the pairs (t, s) with t in the right half and s in the left half are one matrix product
whose factors are anchored between the halves, so that no exponent is positive; the two halves follow together, as one
more batch axis. An odd number of rows gets one neutral row.
"""

# Generated modules are for readers and take these functions as they stand, hence without annotations.
# mypy: allow-untyped-defs

import torch
import torch.nn.functional as F

# ------------------------------------------------------------------------------------------------ element-wise, columns


def ctz(x):
    """How often 2 divides the whole number x; 0 for x = 0."""
    n = x.detach().to(torch.int64)
    low = (n & -n).clamp_min(1)
    return torch.where(n == 0, torch.zeros_like(x), torch.log2(low.to(torch.float64)).round().to(x.dtype))


def topk(x, count):
    """1 at the `count` largest entries of each row, else 0."""
    return torch.zeros_like(x).scatter(-1, torch.topk(x.detach(), count, dim=-1).indices, 1.0)


def pairs(x, side):
    """Columns 0, 2, 4, ... (side 0) or 1, 3, 5, ... (side 1)."""
    return x[..., side::2]


def unpairs(x, y):
    """The tile whose even columns are x and odd columns y."""
    return torch.stack(torch.broadcast_tensors(x, y), dim=-1).flatten(-2)


def kron(x, y):
    """Row by row: column i*q + j is x[i] * y[j]."""
    return (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)


def unkron(ct, other, side):
    """Adjoint of `kron` in its left (side 0) or right (side 1) argument, given the other one."""
    if side == 0:
        return (ct.unflatten(-1, (-1, other.shape[-1])) * other.unsqueeze(-2)).sum(-1)
    return (ct.unflatten(-1, (other.shape[-1], -1)) * other.unsqueeze(-1)).sum(-2)


def diagonal(x):
    """A row [..., 1, n] on the diagonal of a square."""
    return torch.diag_embed(x.squeeze(-2))


def cat(*parts):
    """Columns side by side."""
    batch = torch.broadcast_shapes(*(p.shape[:-2] for p in parts))
    return torch.cat([p.expand(*batch, *p.shape[-2:]) for p in parts], dim=-1)


# ------------------------------------------------------------------------------------------------ token axis


def cumsum(x, reverse):
    """Running sum over tokens, from the last one when `reverse`."""
    return x.flip(-2).cumsum(-2).flip(-2) if reverse else x.cumsum(-2)


def cumprod(x, reverse):
    """Running product over tokens, from the last one when `reverse`."""
    return x.flip(-2).cumprod(-2).flip(-2) if reverse else x.cumprod(-2)


def scan(a, x, reverse):
    """h[t] = a[t] * h[t-1] + x[t] (h[t+1] when `reverse`), starting from 0."""
    a, x = torch.broadcast_tensors(a, x)
    decays, inputs = a.unbind(-2), x.unbind(-2)
    order = range(len(inputs) - 1, -1, -1) if reverse else range(len(inputs))
    rows, state = [], None
    for t in order:
        state = inputs[t] if state is None else torch.addcmul(inputs[t], decays[t], state)
        rows.append(state)
    return torch.stack(rows[::-1] if reverse else rows, dim=-2)


def shift(x, fill, by):
    """Row t is row t - by, `fill` outside."""
    rows = x.shape[-2]
    if abs(by) >= rows:
        return torch.full_like(x, fill)
    if by >= 0:
        return F.pad(x[..., : rows - by, :], (0, 0, by, 0), value=fill)
    return F.pad(x[..., -by:, :], (0, 0, 0, -by), value=fill)


def last(x):
    """The last token's row."""
    return x[..., -1:, :]


def put_last(x, rows):
    """Adjoint of `last`: zeros above x."""
    return F.pad(x, (0, 0, rows - 1, 0))


# ------------------------------------------------------------------------------------------------ slots


def interleave(*tiles):
    """m tiles of C rows as C*m rows, those of a token next to each other."""
    return torch.stack(torch.broadcast_tensors(*tiles), dim=-2).flatten(-3, -2)


def slot(x, slots, j):
    """Rows j, j + slots, j + 2*slots, ...: tile j of `interleave`."""
    return x[..., j::slots, :]


def blocks(*tiles):
    """m*m tiles C x C (row-major) as one C*m x C*m, rows and columns interleaved."""
    m = round(len(tiles) ** 0.5)
    tiles = torch.broadcast_tensors(*tiles)
    rows = [torch.stack(tiles[i * m : (i + 1) * m], dim=-1).flatten(-2) for i in range(m)]
    return torch.stack(rows, dim=-2).flatten(-3, -2)


def block(x, slots, i, j):
    """Tile (i, j) of `blocks`."""
    return x[..., i::slots, j::slots]


# ------------------------------------------------------------------------------------------------ masks


def mask(x, kind):
    """x where s < t ("strict") or s <= t ("incl"), else 0."""
    return x.tril(-1 if kind == "strict" else 0)


def mexp(x, kind):
    """exp(x) where the mask holds, else 0; masked before the exponential, which never overflows outside."""
    keep = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).tril(-1 if kind == "strict" else 0)
    return x.masked_fill(~keep, -torch.inf).exp()


# ------------------------------------------------------------------------------------------------ decayed products


def gram(x, y, gx, gy, kind):
    """A[t,s] = sum_d x[t,d] y[s,d] exp(gx[t,d] - gy[s,d]) under the mask; cumulative log decays gx, gy."""
    n = x.shape[-2]
    if n == 1:
        own = (x * y * (gx - gy).exp()).sum(-1, keepdim=True)
        return own if kind == "incl" else torch.zeros_like(own)
    if n % 2:
        x, y = F.pad(x, (0, 0, 0, 1)), F.pad(y, (0, 0, 0, 1))
        gx, gy = torch.cat([gx, gx[..., -1:, :]], -2), torch.cat([gy, gy[..., -1:, :]], -2)
        return gram(x, y, gx, gy, kind)[..., :n, :n]
    h = n // 2
    anchor = gy[..., h - 1 : h, :]
    right = x[..., h:, :] * (gx[..., h:, :] - anchor).exp()
    left = y[..., :h, :] * (anchor - gy[..., :h, :]).exp()
    cross = right @ left.mT if h > 1 else (right * left).sum(-1, keepdim=True)
    halves = gram(*(z.unflatten(-2, (2, h)) for z in (x, y, gx, gy)), kind)
    top = F.pad(halves[..., 0, :, :], (0, h))
    return torch.cat([top, torch.cat([cross, halves[..., 1, :, :]], -1)], -2)


def gram_apply(m, y, gx, gy, kind, adjoint):
    """out[t,d] = sum_s m[t,s] y[s,d] exp(gx[t,d] - gy[s,d]) under the mask;
    adjoint: out[s,d] = sum_t m[t,s] y[t,d] exp(gx[t,d] - gy[s,d])."""
    n = y.shape[-2]
    if n == 1:
        out = m * y * (gx - gy).exp()
        return out if kind == "incl" else torch.zeros_like(out)
    if n % 2:
        m, y = F.pad(m, (0, 1, 0, 1)), F.pad(y, (0, 0, 0, 1))
        gx, gy = torch.cat([gx, gx[..., -1:, :]], -2), torch.cat([gy, gy[..., -1:, :]], -2)
        return gram_apply(m, y, gx, gy, kind, adjoint)[..., :n, :]
    h = n // 2
    anchor = gy[..., h - 1 : h, :]
    right, left = (gx[..., h:, :] - anchor).exp(), (anchor - gy[..., :h, :]).exp()
    corner = m[..., h:, :h]
    inner = torch.stack([m[..., :h, :h], m[..., h:, h:]], -3)
    halves = gram_apply(inner, *(z.unflatten(-2, (2, h)) for z in (y, gx, gy)), kind, adjoint)
    first, second = halves[..., 0, :, :], halves[..., 1, :, :]
    if adjoint:
        y = y[..., h:, :] * right
        first = first + left * (corner.mT @ y if h > 1 else corner * y)
    else:
        y = y[..., :h, :] * left
        second = second + right * (corner @ y if h > 1 else corner * y)
    return torch.cat([first, second], -2)


def running(logs):
    """A decay by its logarithm."""
    return logs.exp()


def chain_gram(x, y, a):
    """A[t,s] = sum_d x[t,d] y[s,d] prod of a[i,d] over s < i < t, for s < t, else 0; a may be 0 or negative."""
    n = x.shape[-2]
    if n == 1:
        return torch.zeros_like((x * y * a).sum(-1, keepdim=True))
    if n % 2:
        x, y, a = F.pad(x, (0, 0, 0, 1)), F.pad(y, (0, 0, 0, 1)), F.pad(a, (0, 0, 0, 1), value=1.0)
        return chain_gram(x, y, a)[..., :n, :n]
    h = n // 2
    before = F.pad(a[..., h : n - 1, :].cumprod(-2), (0, 0, 1, 0), value=1.0)
    after = F.pad(a[..., 1:h, :].flip(-2).cumprod(-2).flip(-2), (0, 0, 0, 1), value=1.0)
    right, left = x[..., h:, :] * before, y[..., :h, :] * after
    if h == 1:
        return F.pad((right * left).sum(-1, keepdim=True), (0, 1, 1, 0))
    cross = right @ left.mT
    halves = chain_gram(*(z.unflatten(-2, (2, h)) for z in (x, y, a)))
    top = F.pad(halves[..., 0, :, :], (0, h))
    return torch.cat([top, torch.cat([cross, halves[..., 1, :, :]], -1)], -2)


def chain_apply(m, y, a, adjoint):
    """out[t,d] = sum_s m[t,s] y[s,d] P, P the product of a[i,d] over s < i < t, for s < t;
    adjoint: out[s,d] = sum_t m[t,s] y[t,d] P."""
    n = y.shape[-2]
    if n == 1:
        return torch.zeros_like(m * y * a)
    if n % 2:
        m, y, a = F.pad(m, (0, 1, 0, 1)), F.pad(y, (0, 0, 0, 1)), F.pad(a, (0, 0, 0, 1), value=1.0)
        return chain_apply(m, y, a, adjoint)[..., :n, :]
    h = n // 2
    before = F.pad(a[..., h : n - 1, :].cumprod(-2), (0, 0, 1, 0), value=1.0)
    after = F.pad(a[..., 1:h, :].flip(-2).cumprod(-2).flip(-2), (0, 0, 0, 1), value=1.0)
    corner = m[..., h:, :h]
    if h == 1:
        return F.pad(corner * y[..., 1:, :], (0, 0, 0, 1)) if adjoint else F.pad(corner * y[..., :1, :], (0, 0, 1, 0))
    if adjoint:
        cross = after * (corner.mT @ (y[..., h:, :] * before))
    else:
        cross = before * (corner @ (y[..., :h, :] * after))
    inner = torch.stack([m[..., :h, :h], m[..., h:, h:]], -3)
    halves = chain_apply(inner, *(z.unflatten(-2, (2, h)) for z in (y, a)), adjoint)
    first, second = halves[..., 0, :, :], halves[..., 1, :, :]
    return torch.cat([first + cross, second] if adjoint else [first, second + cross], -2)


def chain_gate(x, y, a, ct):
    """d/da of sum_{s<t} ct[t,s] A[t,s] with A = chain_gram(x, y, a): products and row recurrences, no division, so a
    decay of 0 has its true gradient."""
    n = x.shape[-2]
    if n == 1:
        return torch.zeros_like(x * y * a * ct)
    if n % 2:
        x, y, a = F.pad(x, (0, 0, 0, 1)), F.pad(y, (0, 0, 0, 1)), F.pad(a, (0, 0, 0, 1), value=1.0)
        return chain_gate(x, y, a, F.pad(ct, (0, 1, 0, 1)))[..., :n, :]
    h = n // 2
    if h == 1:
        return torch.zeros_like(x * y * a * ct[..., :1])
    first, second = a[..., :h, :], a[..., h:, :]
    before = F.pad(second[..., :-1, :].cumprod(-2), (0, 0, 1, 0), value=1.0)
    after = F.pad(first[..., 1:, :].flip(-2).cumprod(-2).flip(-2), (0, 0, 0, 1), value=1.0)
    right, left = x[..., h:, :], y[..., :h, :]
    corner = ct[..., h:, :h]
    d_before = right * (corner @ (left * after))
    d_after = left * (corner.mT @ (right * before))
    # before[t] is the product of a over i < t of the right half: d a[i] = before[i] * sum_{t>i} d_before[t] prod_{i<j<t} a[j]
    sums, total = [], torch.zeros_like(d_before[..., 0, :])
    for i in range(h - 1, -1, -1):
        sums.append(total)
        total = torch.addcmul(d_before[..., i, :], second[..., i, :], total)
    d_second = before * torch.stack(sums[::-1], -2)
    sums, total = [], torch.zeros_like(d_after[..., 0, :])
    for i in range(h):
        sums.append(total)
        total = torch.addcmul(d_after[..., i, :], first[..., i, :], total)
    d_first = after * torch.stack(sums, -2)
    inner = torch.stack([ct[..., :h, :h], ct[..., h:, h:]], -3)
    return torch.cat([d_first, d_second], -2) + chain_gate(
        *(z.unflatten(-2, (2, h)) for z in (x, y, a)), inner
    ).flatten(-3, -2)


def before(a):
    """Row t: the product of the rows before t."""
    return torch.cat([torch.ones_like(a[..., :1, :]), a[..., :-1, :].cumprod(-2)], -2)


def after(a):
    """Row t: the product of the rows after t."""
    return before(a.flip(-2)).flip(-2)


def whole(a):
    """The product of all rows."""
    return a.prod(-2, keepdim=True)


def before_gate(a, ct):
    """Adjoint of `before`: d a[i] = before[i] sum_{t>i} ct[t] prod of a over i < j < t; no division."""
    rows = [torch.zeros_like(a[..., 0, :])]
    for i in range(a.shape[-2] - 1, 0, -1):
        rows.append(ct[..., i, :] + a[..., i, :] * rows[-1])
    return before(a) * torch.stack(rows[::-1], -2)


def after_gate(a, ct):
    """Adjoint of `after`."""
    return before_gate(a.flip(-2), ct.flip(-2)).flip(-2)


def decay_gate(a, *args):
    """The sum of chain_gates, of `before_gate` and of `after_gate` for one decay; the last argument says how many of each."""
    *tiles, (parts, has_before, has_after) = args
    total = sum((chain_gate(x, y, a, m) for x, y, m in zip(*[iter(tiles[: 3 * parts])] * 3, strict=True)), torch.zeros_like(a))
    rest = tiles[3 * parts :]
    if has_before:
        total = total + before_gate(a, rest[0])
    return total + after_gate(a, rest[-1]) if has_after else total


def log_gate(a, *args):
    """a times the sum of chain_gates, and what lies between the pairs of two more tiles (see `chunk.program`); the last argument
    says how many chain_gates, and whether there are such tiles."""
    *tiles, (parts, edges) = args
    total = a * decay_gate(a, *tiles[: 3 * parts], (parts, False, False))
    if edges:
        difference, left = tiles[3 * parts :]
        total = total + difference.flip(-2).cumsum(-2).flip(-2) - difference - left
    return total


def spans(a):
    """out[t,s] = product of a[i] over s < i < t for s < t, else 0; a is [..., C, 1]."""
    n = a.shape[-2]
    below = torch.ones(n, n, dtype=torch.bool, device=a.device).tril(-1)
    factors = torch.where(below, a, torch.ones_like(a)).cumprod(-2)
    return F.pad(factors[..., :-1, :], (0, 0, 1, 0)).masked_fill(~below, 0.0)


def spans_gate(spans, a, ct):
    """Adjoint of `spans`: d a[i] = sum_{s<i<t} ct[t,s] spans[t,i] spans[i,s]."""
    return ((ct @ spans.mT) * spans).sum(-2).unsqueeze(-1)


# ------------------------------------------------------------------------------------------------ solves


def solve(a, b, adjoint):
    """(I - a)^-1 b, or (I - a)^-T b, for strictly lower a."""
    if adjoint:
        return torch.linalg.solve_triangular(-a.mT, b, upper=True, unitriangular=True)
    return torch.linalg.solve_triangular(-a, b, upper=False, unitriangular=True)


def inverse(a):
    """(I - a)^-1 for strictly lower a."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.solve_triangular(-a, eye.expand_as(a), upper=False, unitriangular=True)


def conjugate(apply, right, steps):
    """x with apply(x) = right, for a linear map of each row by a symmetric positive definite matrix: conjugate gradients
    until a row's residual is 8 roundings of its right side, or `steps` times (0: twice the number of columns). A row
    that is done stays as it is; NaN is never done. Only on a CPU the loop ends when all are done: elsewhere that would wait for the device."""
    image = apply(right)
    right = right.expand(torch.broadcast_shapes(right.shape, image.shape))
    x, residual, direction = torch.zeros_like(right), right, right
    norm = residual.square().sum(-1, keepdim=True)
    enough = norm * (8 * torch.finfo(right.dtype).eps) ** 2
    for step in range(steps or 2 * right.shape[-1]):
        if step:
            image = apply(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        going = ~((norm <= enough) | (curvature <= 0))
        if right.device.type == "cpu" and not going.any():
            break
        length = torch.where(going, norm / curvature, 0.0)
        x, residual = x + length * direction, residual - length * image
        rest = residual.square().sum(-1, keepdim=True)
        direction = residual + torch.where(going, rest / norm, 0.0) * direction
        norm = rest
    return x
