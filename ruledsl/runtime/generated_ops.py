"""What generated torch text calls besides the operations of `tile_ops`: packing, row-wise functions, layout, autograd.

Generated modules contain the text of these functions, so each needs nothing but torch and others of this file.
"""

import torch

# ------------------------------------------------------------------------------------------------ chunks


def spread(x, rows, columns):
    """x with its axes of 1 repeated to rows x columns."""
    return x.expand(*x.shape[:-2], rows, columns)


def fit(gradient, tile):
    """The gradient of `tile`: summed over the axes along which the tile was repeated."""
    gradient = gradient.expand(torch.broadcast_shapes(gradient.shape, tile.shape))
    return gradient.sum_to_size(tile.shape)


def begin(states, packed):
    """What the loop starts from. `packed`: None, or (first or last chunk of its sequence? [N], sequence of each chunk [N])."""
    return states if packed is None else states[:1]


def enter(carried, states, packed, n):
    """What chunk n starts from: what the chunk before left, or its own sequence's state."""
    if packed is None:
        return carried
    return torch.where(packed[0][n], states.index_select(0, packed[1][n : n + 1]), carried)


def leave(leaving, carried, packed, n):
    """The states after chunk n; in packed sequences the last chunk of each has the last word."""
    return carried if packed is None else leaving.index_copy_(0, packed[1][n : n + 1], carried)


# ------------------------------------------------------------------------------------------------ values of one token


def unit(x, axis):
    """x with norm 1 along the axis."""
    return x * torch.rsqrt((x * x).sum(axis, keepdim=True) + 1e-6)


def rmsnorm(x, axis):
    """x with root mean square 1 along the axis."""
    return x * torch.rsqrt((x * x).mean(axis, keepdim=True) + 1e-5)


def layernorm(x, axis):
    """x with mean 0 and variance 1 along the axis."""
    return rmsnorm(x - x.mean(axis, keepdim=True), axis)


def largest(x, count, axis):
    """1 at the `count` largest entries along the axis, else 0."""
    return torch.zeros_like(x).scatter(axis, torch.topk(x.detach(), count, dim=axis).indices, 1.0)


def stacked(*parts):
    """Vectors (and numbers) one below the other."""
    batch = torch.broadcast_shapes(*(p.shape[:-2] for p in parts))
    return torch.cat([p.expand(*batch, *p.shape[-2:]) for p in parts], -2)


def kronecker(x, y):
    """The Kronecker product of the last two axes."""
    return (x[..., :, None, :, None] * y[..., None, :, None, :]).flatten(-4, -3).flatten(-2, -1)


def rotated(x, angle):
    """Entries 2i-1 and 2i of a vector turned by angle[i]."""
    even, odd = x[..., 0::2, :], x[..., 1::2, :]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -2).flatten(-3, -2)


def trace(x):
    """The sum of the diagonal, 1 x 1."""
    return torch.diagonal(x, dim1=-2, dim2=-1).sum(-1)[..., None, None]


# ------------------------------------------------------------------------------------------------ layout


def opened(x, trailing):
    """A tensor with 0, 1 or 2 axes of its own as rows x columns."""
    return x[..., None, None] if trailing == 0 else x[..., None] if trailing == 1 else x


def closed(x, trailing):
    """The inverse of `opened`."""
    return x[..., 0, 0] if trailing == 0 else x[..., 0] if trailing == 1 else x


def checked(name, x, lead, own):
    """x, if its axes after the first `lead` are `own`; a message that names it otherwise."""
    if tuple(x.shape[lead:]) != tuple(own):
        raise ValueError(f"{name}: expected {lead} leading axes and then {tuple(own)}, got {tuple(x.shape)}")
    return x


def heads_of(inputs, axis):
    """The number of heads: the most that an input has."""
    return max(x.shape[axis] for x in inputs.values())


def with_heads(x, heads, axis):
    """Each head of x serves heads / (its own number) heads."""
    return x if x.shape[axis] == heads else x.repeat_interleave(heads // x.shape[axis], axis)


def tile(x, chunk, lag=0, before=None):
    """Tokens [B, T, H, rows, columns] (one of them 1) as [B, H, N, chunk, n]: the last token repeated as padding.
    With `lag` each row holds the value that many tokens ago; `before` [B, H, L, ...] is what came before the first."""
    length = x.shape[1]
    if lag:
        x = torch.cat([before[:, :, before.shape[2] - lag :].movedim(2, 1), x], 1)[:, :length]
    rows = torch.arange(-(-length // chunk) * chunk, device=x.device).clamp(max=length - 1)
    return x.flatten(3)[:, rows].unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def untile(x, length, batch, heads, rows, columns):
    """[B, H, N, chunk, n] as tokens [B, T, H, rows, columns]."""
    x = x.expand(batch, heads, *x.shape[-3:])
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length].unflatten(-1, (rows, columns))


def own_chunks(t, length, chunk):
    """[B, N * chunk]: which token stands in each row of the chunks at positions 0, chunk, 2 * chunk, ...; `t` [B, ...] is the
    position of the first. Below 0 and from `length` on there is none."""
    rows = torch.arange(-(-(length + chunk - 1) // chunk) * chunk, device=t.device)
    return rows - t.reshape(-1, 1) % chunk


def tile_at(x, rows, chunk, lag=0, before=None):
    """`tile` by the table of `own_chunks`; the nearest token where there is none."""
    length = x.shape[1]
    if lag:
        x = torch.cat([before[:, :, before.shape[2] - lag :].movedim(2, 1), x], 1)[:, :length]
    index = rows.clamp(min=0, max=length - 1)[:, :, None, None].expand(-1, -1, *x.flatten(3).shape[2:])
    return x.flatten(3).gather(1, index).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def untile_at(x, table, length, batch, heads, rows, columns):
    """The inverse of `tile_at`: tokens [B, T, H, rows, columns]."""
    x = x.expand(batch, heads, *x.shape[-3:]).permute(0, 2, 3, 1, 4).flatten(1, 2)
    index = (torch.arange(length, device=x.device) - table[:, :1])[:, :, None, None]
    return x.gather(1, index.expand(-1, -1, *x.shape[2:])).unflatten(-1, (rows, columns))


def kept_values(x, before):
    """The last values of x [B, T, H, ...] for `prev`, as [B, H, L, ...]; `before` are those in front of the first."""
    return torch.cat([before, x.movedim(1, 2)], 2)[:, :, -before.shape[2] :]


class Chunked(torch.autograd.Function):
    """The two passes joined. apply(passes, sizes, keys of tiles, keys of states, *tiles, *states) gives the outputs,
    then the leaving states."""

    @staticmethod
    def forward(ctx, passes, sizes, tile_keys, state_keys, *tensors):
        tiles = dict(zip(tile_keys, tensors, strict=False))
        states = dict(zip(state_keys, tensors[len(tile_keys) :], strict=True))
        outputs, entering, leaving = passes[0](tiles, states, None, sizes)
        ctx.passes, ctx.sizes, ctx.tile_keys, ctx.state_keys = passes, sizes, tile_keys, state_keys
        ctx.output_keys = tuple(outputs)
        ctx.save_for_backward(*tensors[: len(tile_keys)], *(entering[key] for key in state_keys))
        return (*outputs.values(), *(leaving[key].clone() for key in state_keys))

    @staticmethod
    def backward(ctx, *gradients):
        saved = ctx.saved_tensors
        tiles = dict(zip(ctx.tile_keys, saved, strict=False))
        entering = dict(zip(ctx.state_keys, saved[len(ctx.tile_keys) :], strict=True))
        douts = dict(zip(ctx.output_keys, gradients, strict=False))
        dleaving = dict(zip(ctx.state_keys, gradients[len(ctx.output_keys) :], strict=True))
        dtiles, dstates = ctx.passes[1](tiles, entering, None, douts, dleaving, ctx.sizes)
        return (
            None,
            None,
            None,
            None,
            *(dtiles.get(key) for key in ctx.tile_keys),
            *(dstates.get(key) for key in ctx.state_keys),
        )


# ------------------------------------------------------------------------------------------------ the whole sequence


def run_tokens(token, inputs, fixed, state, sizes):
    """`token` for every token: inputs [B, T, H, ...] and fixed values [1, H, ...], opened. Outputs get the axis T."""
    outputs = []
    for i in range(next(iter(inputs.values())).shape[1]):
        out, new = token({**{name: x[:, i] for name, x in inputs.items()}, **fixed}, state, sizes)
        state = {key: value.expand_as(state[key]) for key, value in new.items()}
        outputs.append(out)
    return {name: torch.stack([out[name] for out in outputs], 1) for name in outputs[0]}, state


def largest_error(found, expected):
    """The largest difference, relative to the largest expected entry."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True)]
    return max((float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in pairs if b.numel()), default=0.0)


def agreement(first, second, given, names):
    """Errors of `first` against `second`, two functions (given, initial state) -> (outputs, state): in the outputs, in
    the state, in the gradients of a random combination of both with respect to given[name] and the initial state."""
    found = []
    for function in (first, second):
        leaves = {key: x.detach().clone().requires_grad_(x.is_floating_point()) for key, x in given.items()}
        outputs, state = function(leaves)
        results = [*outputs.values(), *(state[key] for key in sorted(state) if state[key].is_floating_point())]
        generator = torch.Generator().manual_seed(1)
        total = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in results)
        wanted = [leaves[name] for name in names]
        gradients = (
            torch.autograd.grad(total, wanted, allow_unused=True) if total.requires_grad else [None] * len(wanted)
        )
        filled = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, wanted, strict=True)]
        found.append((list(outputs.values()), results[len(outputs) :], filled))
    return [largest_error(a, b) for a, b in zip(*found, strict=True)]


def prepared(rule, given, initial_state):
    """(inputs [B, T, H, ...], fixed values [1, H, ...], state [B, H, ...], sizes), everything opened, from what a caller
    gives. `rule`: the tables that the module defines."""
    inputs = {name: given[name] for name in rule["inputs"]}
    heads = heads_of(inputs, 2)
    sizes = rule["sizes"](given, initial_state or {})
    own = rule["shapes"](sizes)
    sizes[":heads"] = heads
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in given.values()) else torch.float32
    inputs = {
        name: opened(with_heads(checked(name, x, 3, own[name]).to(dtype), heads, 2), rule["inputs"][name])
        for name, x in inputs.items()
    }
    fixed = {
        name: opened(checked(name, given[name], 1, own[name]).to(dtype), axes)[None]
        for name, axes in rule["fixed"].items()
    }
    first = next(iter(inputs.values()))
    if first.shape[1] == 0:
        raise ValueError("at least one token")
    state = rule["first"](first.shape[0], heads, sizes, first)
    for key, x in (initial_state or {}).items():
        if key not in rule["states"]:
            raise ValueError(f"the rule has no state {key}; it has {', '.join(rule['states'])}")
        state[key] = x[:, None, None, None] if key == "t" else opened(x.to(dtype), rule["states"][key])
    missing = [key for key in rule["states"] if key not in state]
    if missing:
        raise ValueError(f"initial_state must hold {', '.join(missing)}")
    return inputs, fixed, state, sizes


def finished(rule, outputs, state):
    """What the caller gets: the output (a dict of them if there are several) and the state by name."""
    found = {name: closed(x, rule["outputs"][name]) for name, x in outputs.items()}
    after = {key: x[:, 0, 0, 0] if key == "t" else closed(x, rule["states"][key]) for key, x in state.items()}
    return (next(iter(found.values())) if len(found) == 1 else found), after


def sampled(shape, generator, low=None, high=None, kind="value"):
    """Random numbers within (low, high), None for no bound; `kind`: "value" in (0, 1), "vector" of norm at most 1,
    "unit" of norm 1, "matrix" of small norm, "semidefinite" a matrix times its transpose, "permutation"."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(0.001, 0.999)
    if kind == "permutation":
        return torch.eye(shape[-1], dtype=torch.float64)[uniform[..., 0].argsort(-1)]
    if kind == "unit":
        return normal / normal.norm(dim=-1, keepdim=True)
    if low is not None or high is not None:
        if low is not None and high is not None:
            return low + (high - low) * uniform
        return low + normal.abs() + 0.001 if low is not None else high - normal.abs() - 0.001
    if kind in ("matrix", "semidefinite"):
        small = normal / (shape[-1] ** 0.5 + shape[-2] ** 0.5)
        return small if kind == "matrix" else small @ small.mT
    return 0.8 * normal / normal.norm(dim=-1, keepdim=True) if kind == "vector" else uniform
