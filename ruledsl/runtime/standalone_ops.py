"""What a generated module of its own needs around its Triton kernels. Its functions go into the module as text, so each
uses nothing but torch, triton and others of this file; the module defines TILES and OPERANDS."""

import torch
from triton.runtime.errors import OutOfResources

TILES = ()  # {"chunk": tokens, kind of kernel: Loop}, best first
OPERANDS = torch.float32  # of the products


class Loop:
    """How a kernel runs: warps, rows or columns of a tile at once, stages of the loads, most registers of a thread."""

    def __init__(self, warps, side, stages, registers=None):
        self.warps, self.side, self.stages, self.registers = warps, side, stages, registers


class ChunkTables:
    """Where chunks are: first token, tokens, position in the sequence; first and last chunk of each sequence."""

    def __init__(self, batch, length, chunk, position):
        per = -(-length // chunk)
        index = torch.arange(batch * per, device=position.device)
        inside = index % per * chunk
        self.starts = index // per * length + inside
        self.counts = (length - inside).clamp(max=chunk)
        self.places = inside + position[index // per]
        self.begins = torch.arange(batch, device=position.device) * per
        self.ends = self.begins + per
        self.firsts = torch.arange(batch, device=position.device) * length
        self.lasts = self.firsts + length


def launch(run, batch, length, position, dtypes):
    """run(chunks, plan) with the first tiles that fit the device, and the tokens of a chunk."""
    precision = "tf32x3" if OPERANDS == torch.float32 else "ieee"
    for tiles in TILES:
        plan = {**tiles, "tokens": batch * length, "dtype": OPERANDS, "dtypes": dtypes, "precision": precision}
        try:
            return run(ChunkTables(batch, length, tiles["chunk"], position), plan), tiles["chunk"]
        except OutOfResources as error:
            reason = error
    raise reason


class Kernels(torch.autograd.Function):
    """The two passes joined. apply(passes, sizes, position, names, *tensors) gives the outputs, then the final states.
    names: of inputs [B, T, H, ...], of fixed values [1, H, ...] and of states [B, H, ...], in the order of `tensors`, and
    {output: its axes}."""

    @staticmethod
    def forward(ctx, passes, sizes, position, names, *tensors):
        ctx.passes, ctx.sizes, ctx.position, ctx.names = passes, sizes, position, names
        given, states, (batch, length, heads) = Kernels.parts(names, tensors)
        dtypes = dict.fromkeys(names[3], torch.float32)
        (outputs, final, kept), ctx.chunk = launch(
            lambda chunks, plan: passes[0](given, states, chunks, heads, sizes, plan), batch, length, position, dtypes
        )
        ctx.kept = tuple(kept)
        ctx.save_for_backward(*tensors, *kept.values())
        shaped = [outputs[name].view(batch, length, heads, *axes) for name, axes in names[3].items()]
        return (*shaped, *(final[name] for name in names[2]))

    @staticmethod
    def parts(names, tensors):
        """Inputs and fixed values as kernels take them, states, and (batch, length, heads)."""
        batch, length, heads = tensors[0].shape[:3]
        count = len(names[0])
        given = {n: x.reshape(batch * length, heads, -1).contiguous() for n, x in zip(names[0], tensors, strict=False)}
        given |= {n: x[0].contiguous() for n, x in zip(names[1], tensors[count:], strict=False)}
        states = {n: x.contiguous() for n, x in zip(names[2], tensors[count + len(names[1]) :], strict=False)}
        return given, states, (batch, length, heads)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        names, count = ctx.names, sum(len(own) for own in ctx.names[:3])
        tensors, kept = ctx.saved_tensors[:count], dict(zip(ctx.kept, ctx.saved_tensors[count:], strict=True))
        given, states, (batch, length, heads) = Kernels.parts(names, tensors)
        d_outputs = {n: g.reshape(batch * length, heads, -1).contiguous() for n, g in zip(names[3], gradients, strict=False)}
        d_final = {n: g.contiguous() for n, g in zip(names[2], gradients[len(names[3]) :], strict=False)}
        dtypes = dict.fromkeys([*names[0], *names[3]], torch.float32)

        def run(chunks, plan):
            own = kept if plan["chunk"] == ctx.chunk else None
            return ctx.passes[1](given, states, chunks, heads, ctx.sizes, plan, own, d_outputs, d_final)

        (found, initial), _ = launch(run, batch, length, ctx.position, dtypes)
        found = {n: g.sum(0) if n in names[1] else g for n, g in found.items()} | initial
        ordered = zip([*names[0], *names[1], *names[2]], tensors, strict=True)
        return (None, None, None, None, *(found[n].view(x.shape) if n in found else None for n, x in ordered))


class ScanKernels(torch.autograd.Function):
    """The walk over the tokens of whole sequences and its gradient: arguments and results as of `Kernels`, passes being the
    two launchers and SCAN."""

    @staticmethod
    def forward(ctx, passes, sizes, position, names, *tensors):
        ctx.passes, ctx.sizes, ctx.position, ctx.names = passes, sizes, position, names
        run, _, scan = passes
        given, states, (batch, length, heads) = Kernels.parts(names, tensors)
        bounds = torch.arange(batch + 1, device=position.device) * length
        width = sum(x[0, 0].numel() for x in states.values())
        kept = tensors[0].new_empty(batch * length // scan["segment"] + batch, heads, width)
        outputs = {n: tensors[0].new_empty(batch, length, heads, *axes) for n, axes in names[3].items()}
        final = {n: torch.empty_like(x) for n, x in states.items()}
        run(given, states, final, position, bounds, kept, outputs, heads, sizes, scan["warps"])
        ctx.save_for_backward(kept, *tensors)
        return (*outputs.values(), *final.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        (kept, *tensors), names, (_, back, scan) = ctx.saved_tensors, ctx.names, ctx.passes
        given, states, (batch, length, heads) = Kernels.parts(names, tensors)
        bounds = torch.arange(batch + 1, device=kept.device) * length
        d_outputs = {n: g.contiguous() for n, g in zip(names[3], gradients, strict=False)}
        d_final = {n: g.contiguous() for n, g in zip(names[2], gradients[len(names[3]) :], strict=True)}
        blocks, found = scan["blocks"](ctx.sizes), {}
        for name, x in {**given, **states}.items():
            if name in scan["gradients"]:
                own = (batch, *x.shape) if name in names[1] else tuple(x.shape)
                found[name] = kept.new_zeros(*((blocks,) if name in scan["partial"] else ()), *own)
        scratch = kept.new_empty(batch * heads * blocks * scan["turns"] * scan["span"](ctx.sizes))
        back(
            given, kept, scratch, ctx.position, bounds, d_outputs, d_final, found, batch * length, heads, ctx.sizes,
            scan["warps"],
        )  # fmt: skip
        found = {n: g.sum(0) if n in scan["partial"] else g for n, g in found.items()}
        found = {n: g.sum(0) if n in names[1] else g for n, g in found.items()}
        ordered = zip([*names[0], *names[1], *names[2]], tensors, strict=True)
        return (None, None, None, None, *(found[n].view(x.shape) if n in found else None for n, x in ordered))


def padded(*axes):
    """Entries of a tile with these axes, at most."""
    entries = 1
    for n in axes:
        entries *= 1 if n == 1 else max(32, 1 << (n - 1).bit_length())
    return entries


def lagged(x, lag, before):
    """The values of x [B, T, H, ...] `lag` tokens ago; `before` [B, H, L, ...] are those in front of the first."""
    return torch.cat([before[:, :, before.shape[2] - lag :].movedim(2, 1), x], 1)[:, : x.shape[1]]
