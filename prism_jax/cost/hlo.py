"""Reads the text of a compiled XLA program: operations, how often they run, their FLOPs, and the bytes that they send.

XLA's `cost_analysis()` ignores communication and counts the body of a loop once. This reader follows the program from
its entry through fusions, calls and loops, and multiplies by trip counts.
"""

import math
import re
from dataclasses import dataclass

from prism_jax.errors import InputError

ITEM_BYTES = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
}
ITEM_BYTES |= {"f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}

ELEMENTWISE = frozenset(
    [
        "abs",
        "add",
        "and",
        "atan2",
        "cbrt",
        "ceil",
        "clamp",
        "compare",
        "convert",
        "cosine",
        "divide",
        "erf",
        "exponential",
        "exponential-minus-one",
        "floor",
        "is-finite",
        "log",
        "log-plus-one",
        "logistic",
        "maximum",
        "minimum",
        "multiply",
        "negate",
        "not",
        "or",
        "popcnt",
        "power",
        "remainder",
        "round-nearest-afz",
        "round-nearest-even",
        "rsqrt",
        "select",
        "shift-left",
        "shift-right-arithmetic",
        "shift-right-logical",
        "sign",
        "sine",
        "sqrt",
        "subtract",
        "tan",
        "tanh",
        "xor",
    ]
)
"""Operations that count as one FLOP for each element of their result, as in XLA's cost analysis."""

COLLECTIVES = frozenset({"all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"})


@dataclass(frozen=True)
class Operation:
    """One operation of the program, with the total cost of all its runs.

    Attributes:
      opcode: XLA's name, for example "dot".
      scope: names of the modules and scopes around it.
      flops: total FLOPs; 2 for a multiply-add.
      bytes_sent: bytes that this device sends to all others together.
      bytes_received: bytes that this device receives from all others together.
      times: number of runs.
      readers: scopes of the operations that depend on a collective, beside it in its computation; empty for others.
    """

    opcode: str
    scope: tuple[str, ...]
    flops: float
    bytes_sent: float
    bytes_received: float
    times: int
    readers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class _Instruction:
    name: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)

    @property
    def bytes(self) -> float:
        return sum(ITEM_BYTES.get(dtype, 0) * math.prod(shape) for dtype, shape in self.shapes)

    def attribute(self, pattern: str) -> str:
        """Returns the first group of `pattern` in the attributes; an empty string without a match."""
        match = re.search(pattern, self.attributes)
        return match.group(1) if match else ""


def read_program(text: str) -> list[Operation]:
    """Returns the operations of a compiled program that compute or send something.

    Args:
      text: `jax.stages.Compiled.as_text()`.

    Raises:
      InputError: if XLA does not know the trip count of a loop, or the cost of an operation can't be read.
    """
    computations, entry = _parse(text)
    operations: list[Operation] = []

    def follow(name, times, caller_scope):
        instructions = computations[name]
        by_name = {instruction.name: instruction for instruction in instructions}
        scopes: dict[str, tuple[str, ...]] = {}
        for instruction in instructions:
            operands = [by_name[operand] for operand in instruction.operands if operand in by_name]
            # XLA drops the name of an operation that it rewrites. The operation then gets the scope of its inputs.
            inherited = [scopes[operand.name] for operand in operands if scopes[operand.name]]
            scope = _scope(instruction) or (inherited[0] if inherited else caller_scope)
            scopes[instruction.name] = () if instruction.opcode == "parameter" else scope
            for callee, trips in _callees(instruction):
                follow(callee, times * trips, scope)
            flops, (sent, received) = _flops(instruction, operands), _traffic(instruction, operands)
            if flops or sent:
                opcode = instruction.opcode.removesuffix("-start")
                readers = _readers(instruction, instructions) if sent else ()
                totals = (times * flops, times * sent, times * received, times)
                operations.append(Operation(opcode, scope, *totals, readers))

    follow(entry, 1, ())
    return operations


def _readers(collective: _Instruction, instructions: list[_Instruction]) -> tuple[tuple[str, ...], ...]:
    """Returns the scopes of the instructions that depend on a collective. An operand stands before its reader."""
    reached, scopes = {collective.name}, []
    for instruction in instructions:
        if not reached.isdisjoint(instruction.operands):
            reached.add(instruction.name)
            scopes.append(_scope(instruction))
    return tuple(dict.fromkeys(scopes))


def _scope(instruction: _Instruction) -> tuple[str, ...]:
    name = instruction.attribute(r'op_name="([^"]*)"')
    return tuple(name.split("/")) if name and instruction.opcode != "parameter" else ()


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if header:
            current = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    if not entry:
        raise InputError(
            "this is not the text of a compiled XLA program, as it has no ENTRY; give that of `Compiled.as_text()`"
        )
    return computations, entry


def _instruction(line: str) -> _Instruction:
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    result, rest = _balanced(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, rest = rest.strip().split("(", 1)
    operands, attributes = _balanced("(" + rest)
    shapes = tuple(
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", result)
    )
    return _Instruction(name.removeprefix("%"), shapes, opcode, tuple(re.findall(r"%([\w.\-]+)", operands)), attributes)


def _balanced(text: str) -> tuple[str, str]:
    """Splits `(...)rest` after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise InputError(f"unbalanced parentheses in {text[:80]!r}; give the whole text of `Compiled.as_text()`")


def _callees(instruction: _Instruction) -> list[tuple[str, int]]:
    """Returns the computations that an instruction runs, and how often. `_flops` counts reducers and comparators."""
    if instruction.opcode in ("fusion", "call", "async-start"):
        return [(name, 1) for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", instruction.attributes)]
    if instruction.opcode == "while":
        trips = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if not trips:
            raise InputError(
                f"the loop {instruction.name} has no known trip count, so its cost can't be read; "
                "use a loop of fixed length"
            )
        return [(instruction.attribute(rf"{part}=%?([\w.\-]+)"), int(trips)) for part in ("condition", "body")]
    if instruction.opcode == "conditional":
        raise InputError(f"the branch {instruction.name} depends on data, so its cost can't be read; use jnp.where")
    return []


def _flops(instruction: _Instruction, operands: list[_Instruction]) -> float:
    if instruction.opcode == "dot":
        lhs = operands[0].shapes[0][1]
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2 * instruction.elements * math.prod([lhs[int(i)] for i in contracted.split(",") if i])
    if instruction.opcode in ELEMENTWISE:
        return instruction.elements
    if instruction.opcode == "reduce":
        return sum(operand.elements for operand in operands[: len(operands) // 2]) - instruction.elements
    if instruction.opcode == "reduce-window":
        window = instruction.attribute(r"window=\{size=([\dx]+)")
        return instruction.elements * (math.prod([int(size) for size in window.split("x")]) - 1)
    if instruction.opcode == "convolution" or (
        instruction.opcode == "custom-call" and re.search("gemm|matmul|conv", instruction.attributes)
    ):
        raise InputError(
            f"the cost of {instruction.name} ({instruction.opcode}) can't be read on this backend; "
            "read it on emulated CPU devices"
        )
    return 0


def _traffic(instruction: _Instruction, operands: list[_Instruction]) -> tuple[float, float]:
    """Returns the bytes that a device sends, and the bytes that it receives. An all-reduce counts as a reduce-scatter
    and an all-gather."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode not in COLLECTIVES:
        return 0, 0
    operand_bytes = sum(operand.bytes for operand in operands)
    result_bytes = instruction.bytes - (operand_bytes if instruction.opcode.endswith("-start") else 0)
    group = _group_size(instruction.attributes)
    others = (group - 1) / group
    return {
        "all-gather": (operand_bytes * (group - 1), result_bytes - operand_bytes),
        "reduce-scatter": (operand_bytes * others, result_bytes * (group - 1)),
        "all-reduce": (2 * operand_bytes * others, 2 * result_bytes * others),
        "all-to-all": (operand_bytes * others, result_bytes * others),
        "collective-permute": (operand_bytes, result_bytes),
    }[opcode]


def _group_size(attributes: str) -> int:
    """Returns the number of devices of a collective, in any of XLA's notations."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed.group(1).count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(iota.group(1))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)))
    return 1
