"""Loads and stores of one kernel, and the tensors that they make its arguments.

Buffers and states are contiguous, [chunk or sequence, head, rows, columns]; what the caller owns comes with the strides
of token and head, and heads that share one ("group"). Bases are 64-bit: `chunk`, `sequence` and `start` are; `token`, the place
in a chunk, is 32-bit, as offsets inside a tile are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ruledsl.chunk.program import PortKind, Result, ResultKind, Rows
from ruledsl.emit.triton_expression import product, total
from ruledsl.emit.triton_frame import Frame, sides
from ruledsl.emit.triton_names import cotangent_name, member_offset, pointer, result_name, safe, tensor_name
from ruledsl.lang.typed import Type
from ruledsl.schedule.attributes import place
from ruledsl.schedule.kernels import Buffer
from ruledsl.schedule.slots import slots
from ruledsl.schedule.unsupported import unsupported

_CHUNK = "(chunk * H + head)"


class TensorKind(StrEnum):
    """What a pointer argument points to."""

    TOKEN = "token"  # of the caller, by token and head; has strides
    PARAM = "param"  # of the caller, by head
    BUFFER = "buffer"  # between kernels, by chunk and head
    RESULT = "result"  # by token and head, contiguous
    PARTIAL = "partial"  # a gradient by chunk and head, for the caller to add up
    FINAL = "final"  # a state that every chunk makes anew: the last one's, by sequence and head


@dataclass(slots=True)
class Memory:
    """Texts of loads and stores. `tensors`: pointer arguments, in the order in which they were needed."""

    frame: Frame
    tensors: dict[str, TensorKind] = field(default_factory=dict)

    def tensor(self, name: str, kind: TensorKind) -> str:
        """Make it a pointer argument."""
        self.tensors.setdefault(name, kind)
        return name

    # ------------------------------------------------------------------------------------------- loads

    def load_buffer(self, buffer: Buffer, orientation: str) -> str:
        """The tile of a buffer's node."""
        return f"tl.load({self._buffer_pointer(buffer.name, buffer.node, orientation)}).to(tl.float32)"

    def levels_parts(self, decay: int) -> tuple[str, str, str]:
        """What says where the level products of a decay are: base, lanes, width."""
        buffer = next((b for b in self.frame.kernel.reads if b.levels and b.node == decay), None)
        if buffer is None:
            raise unsupported("a decay that the kernel itself works out has no Triton form")
        columns = self.frame.node(decay).shape[1]
        lanes = self.frame.lanes(decay, 1)[0] if columns != 1 else "tl.arange(0, 1)"
        return self.levels_base(buffer), lanes, self.frame.count(columns)

    def levels_base(self, buffer: Buffer) -> str:
        """Where the level products of a chunk and head begin."""
        name = self.tensor(buffer.name, TensorKind.BUFFER)
        columns = self.frame.count(self.frame.node(buffer.node).shape[1])
        return total(pointer(name), product(_CHUNK, "(LEVELS + 1)", "C", columns))

    def load_block(self, index: int, buffer: Buffer, orientation: str) -> str:
        """Rows of one slot and columns of another of an interleaved inverse in memory."""
        i, j = place(self.frame.node(index))
        m = slots(self.frame.node(buffer.node).shape[0])
        return f"tl.load({total(self.system(buffer), interleaved(m, i, j, orientation))}).to(tl.float32)"

    def load_port(self, index: int, orientation: str, cleared: bool = False) -> str:
        """What an `input` node reads. `cleared`: padding tokens are 0; said in the load itself, for then it can go to shared
        memory while the kernel computes."""
        frame = self.frame
        node = frame.node(index)
        port = frame.program.port(node)
        down, _ = sides(orientation)
        match port.kind:
            case PortKind.VALID:
                return f"valid{down}.to(tl.float32)"
            case PortKind.POSITION:
                return f"(place + row){down}.to(tl.float32)"
            case PortKind.HEAD:
                return "head.to(tl.float32)"
            case PortKind.HEADS:
                return "H * 1.0"
            case PortKind.SIZE:
                frame.note(port.name)
                return f"{safe(port.name)} * 1.0"
            case PortKind.PARAM:
                name = self.tensor(tensor_name(port), TensorKind.PARAM)
                type_ = frame.types[port.name]
                spread = frame.spread(index, orientation, frame.row_lanes(index), frame.count(node.shape[1]))
                base = [pointer(name), product("head", frame.width(type_)), member_offset(port, type_)]
                return f"tl.load({total(*base, spread)}).to(tl.float32)"
            case PortKind.INPUT | PortKind.COTANGENT:
                cotangent = port.kind is PortKind.COTANGENT
                name = cotangent_name(port.name) if cotangent else tensor_name(port)
                self.tensor(name, TensorKind.TOKEN)
                type_ = frame.types[port.name]
                frame.width(type_)
                base = [pointer(name), f"head // {name}_group * {name}_head", f"start * {name}_token", member_offset(port, type_)]
                spread = frame.spread(index, orientation, "token", f"{name}_token")
                only = f", mask=valid{down}, other=0.0" if cotangent or cleared else ""
                return f"tl.load({total(*base, spread)}{only}).to(tl.float32)"
            case PortKind.STATE:
                raise unsupported(f"the state `{port.name}`, which nothing carries, has no Triton form")

    def load_state(self, index: int, name: str, orientation: str) -> str:
        """The state that enters a sequence."""
        return f"tl.load({self._state_pointer(index, name, orientation)}).to(tl.float32)"

    # ------------------------------------------------------------------------------------------- stores

    def store_buffer(self, name: str, index: int, value: str, orientation: str = "n") -> str:
        """A node's tile to its buffer."""
        return self._store(self._buffer_pointer(name, index, orientation), index, value, orientation)

    def store_edge(self, gate: Buffer, place: str, value: str) -> str:
        """The gradient of `before` (tile LEVELS - 1) or `after` (tile LEVELS) beside those of the level products."""
        columns = self.frame.count(self.frame.node(gate.node).shape[1])
        spread = self.frame.spread(gate.node, "n", "row", columns)
        to = total(self.levels_base(gate), product(place, "C", columns), spread)
        return self._store(to, gate.node, value, "n")

    def store_block(self, buffer: Buffer, at: int, value: str) -> str:
        """Block number `at`, row by row, of an interleaved system."""
        m = slots(self.frame.node(buffer.node).shape[0])
        return f"tl.store({total(self.system(buffer), interleaved(m, *divmod(at, m)))}, {value})"

    def store_state(self, index: int, name: str, value: str, orientation: str) -> str:
        """The state that leaves a sequence."""
        return self._store(self._state_pointer(index, name, orientation), index, value, orientation)

    def store_result(self, result: Result, value: str) -> str:
        """An output or a gradient: of a token input by token, of a param by chunk. A state: of a sequence's last chunk."""
        frame, index = self.frame, result.node
        shape = frame.node(index).shape
        if result.kind is ResultKind.STATE:
            name = self.tensor(result_name(result), TensorKind.FINAL)
            closes = "tl.sum(closes.to(tl.int32)) > 0" if shape == (1, 1) else "closes"  # a number has no block as its mask
            return self._store(self._state_pointer(index, name, "n"), index, value, "n", closes)
        wide = frame.width(result_type(frame, result))
        offset = member_offset(result.port, result_type(frame, result))
        if isinstance(shape[0], Rows):
            name = self.tensor(result_name(result), TensorKind.RESULT)
            spread = frame.spread(index, "n", "token", product("H", wide))
            place = total(pointer(name), product("(start * H + head)", wide), offset, spread)
            return self._store(place, index, value, "n", "valid[:, None]")
        name = self.tensor(result_name(result), TensorKind.PARTIAL)
        spread = frame.spread(index, "n", frame.row_lanes(index), frame.count(shape[1]))
        return self._store(total(pointer(name), product(_CHUNK, wide), offset, spread), index, value, "n")

    def _store(self, place: str, index: int, value: str, orientation: str, valid: str = "") -> str:
        mask = " & ".join(m for m in (valid, self.frame.masks(index, orientation)) if m)
        value = self.frame.whole(index, value)
        return f"tl.store({place}, {value}, mask={mask})" if mask else f"tl.store({place}, {value})"

    # ------------------------------------------------------------------------------------------- pointers

    def _buffer_pointer(self, name: str, index: int, orientation: str) -> str:
        self.tensor(name, TensorKind.BUFFER)
        rows, columns = (self.frame.count(e) for e in self.frame.node(index).shape)
        spread = self.frame.spread(index, orientation, self.frame.row_lanes(index), columns)
        return total(pointer(name), product(_CHUNK, rows, columns), spread)

    def _state_pointer(self, index: int, name: str, orientation: str) -> str:
        rows, columns = (self.frame.count(e) for e in self.frame.node(index).shape)
        spread = self.frame.spread(index, orientation, self.frame.row_lanes(index), columns)
        return total(pointer(name), product("(sequence * H + head)", rows, columns), spread)

    def system(self, buffer: Buffer) -> str:
        """Where an interleaved system begins."""
        name = self.tensor(buffer.name, TensorKind.BUFFER)
        m = slots(self.frame.node(buffer.node).shape[0])
        return total(pointer(name), product(_CHUNK, f"({m} * C)", f"({m} * C)"))


def interleaved(m: int, i: int, j: int, orientation: str = "n") -> str:
    """Offsets of the rows of slot i and the columns of slot j in a system of C*m rows."""
    down, across = sides(orientation)
    return f"(row * {m} + {i}){down} * ({m} * C) + (row * {m} + {j}){across}"


def result_type(frame: Frame, result: Result) -> Type:
    """The declared type of an output, or of what a gradient belongs to."""
    return frame.types[result.port.name if result.port is not None else result.name]
