"""A verdict as text, in full and without colours: the golden form, and what `explain RULE` prints."""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra.text import plain
from ruledsl.algebra.verdict import CoupledForm, Decay, MatrixForm, Read, TokenForm, Verdict, Write
from ruledsl.algebra.witness import shown
from ruledsl.lang.source import Span


def verdict_text(verdict: Verdict) -> str:
    """Kind, strata, stability, price, and the normal form where there is one; ends in a newline."""
    return "\n".join(_lines(verdict)) + "\n"


def _lines(verdict: Verdict) -> Iterator[str]:
    yield f"verdict     {verdict.kind} ({verdict.kind.number})"
    if verdict.transition:
        yield "transition  " + verdict.transition.replace("\n", f"\n{' ' * 12}")
    for stratum in verdict.strata:
        rank = "" if stratum.rank is None else f", rank {stratum.rank} per token"
        yield f"stratum     {', '.join(stratum.states)}: {stratum.kind}, {stratum.structure}{rank}"
        yield f"            {stratum.reason}"
        if stratum.blame is not None:
            yield f"            blame: {_blamed(verdict, stratum.blame)}"
    stability = verdict.stability
    yield f"stability   {stability.claim}{f': {stability.bound}' if stability.bound else ''}"
    yield from (
        f"            {line}" for line in (stability.proof, *(f"given {a}" for a in stability.assumptions)) if line
    )
    if stability.witness is not None:
        yield f"            {shown(stability.witness)}".replace("\n", f"\n{' ' * 12}")
    if stability.memory:
        yield f"memory      {stability.memory}"
        yield f"growth      {stability.growth}"
    price = verdict.price
    if price.state_bytes:
        yield f"state       {price.state_bytes} bytes per head"
        yield f"training    {price.train_flops} flops, {price.train_bytes} bytes per token and head"
        yield f"decoding    {price.decode_flops} flops, {price.decode_bytes} bytes per token and head"
    if price.note:
        yield f"{'' if price.state_bytes else 'price':12}{price.note}"
    yield from (f"note        {note}" for note in dict.fromkeys((*verdict.rule.notes, *verdict.notes)))
    if verdict.token is None:
        yield f"chunk form  none: {verdict.no_form}"
    else:
        yield from _token(verdict.token)


def _blamed(verdict: Verdict, span: Span) -> str:
    line, column = verdict.rule.source.position(span.start)
    return f"{' '.join(verdict.rule.source.slice(span).split())} at {line}:{column}"


def _token(token: TokenForm) -> Iterator[str]:
    for form in token.forms:
        yield from _form(form)
    for joint in token.coupled:
        yield from _coupled(joint)
    for let in token.lets:
        yield f"let         {let.name} = {plain(let.value)}"
    for read in token.reads:
        yield f"read        {_read(read)}"
    for system in token.solves:
        most = "" if system.steps is None else f" in at most {plain(system.steps)} steps"
        yield f"system      {system.name} = {system.unknown} with [{plain(system.applied)}] = [{plain(system.right)}]{most}"
    for output in token.outputs:
        yield f"output      {output.name} = {plain(output.value)}"


def _form(form: MatrixForm) -> Iterator[str]:
    name = form.state if form.member is None else f"{form.state}[{form.member}]"
    yield f"form        {name}{'^T' if form.transposed else ''} [{form.rows}, {form.cols}]"
    for step in form.steps:
        decays = [
            f"{side} decay {_decay(decay)}" for side, decay in (("left", step.left), ("right", step.right)) if decay
        ]
        yield f"  step {step.version}    {'; '.join(decays) or 'no decay'}"
        yield from (f"    write   {_write(write)}" for write in step.writes)


def _coupled(form: CoupledForm) -> Iterator[str]:
    names = [f"{n}{'^T' if s.transposed else ''}" for n, s in zip(form.names, form.held, strict=True)]
    yield f"form        {', '.join(names)} [{form.rows}, {form.cols}] together"
    for w, write in enumerate(form.writes, 1):
        parts = [f"[{plain(r.gain)}] ({names[r.source]} [{plain(r.read)}])" for r in write.reads]
        parts += [f"[{plain(write.value)}]"] if write.value is not None else []
        yield f"  write {w}   ({' + '.join(parts)}) [{plain(write.key)}]^T"
    for v in form.versions:
        parts = [f"[{plain(c)}] {names[j]}" for j, c in v.states]
        parts += [f"[{plain(d)}] write {w + 1}" for w, d in v.writes]
        yield f"  version {v.version} of {names[v.target]} = {' + '.join(parts) or '0'}"


def _decay(decay: Decay) -> str:
    return plain(decay.value) + (f", log {plain(decay.log)}" if decay.log is not None else "")


def _write(write: Write) -> str:
    """`scale * (gain * S read + value) key^T`, each in brackets."""
    parts = []
    if write.gain is not None and write.read is not None:
        parts.append(
            f"[{plain(write.gain)}] (S [{plain(write.read)}]{' after the decay' if write.after_decay else ''})"
        )
    if write.value is not None:
        parts.append(f"[{plain(write.value)}]")
    scale = "" if write.scale is None else f"[{plain(write.scale)}] * "
    return f"{scale}({' + '.join(parts)}) [{plain(write.key)}]^T"


def _read(read: Read) -> str:
    state = f"{read.state}{'' if read.member is None else f'[{read.member}]'}, version {read.version}"
    return f"{read.name} = M{'^T' if read.left else ''} [{plain(read.vector)}]   (M: {state})"
