"""Yosys's C++ simulator of a design (``write_cxxrtl``), rewritten so that it compiles and runs several times faster.

CXXRTL writes one function that evaluates the whole design, which g++ takes minutes for, and which has to be called at
least twice a clock cycle. Here the statements of that function are sorted into two programs, each cut into functions
of a size that compiles quickly, in several files:

``settle``
    what the outputs need, from the present inputs and registers.
``clock``
    what the registers and memories need beside that, then their new contents; it follows a ``settle`` with the same
    inputs.

The order of the statements follows the data, so that a value is used soon after it was made.
"""

import re
from collections import Counter
from dataclasses import dataclass

from hdl.config import MvqError

__all__ = ["Partition", "PartitionError", "partition"]

#: characters of C++ in a function; g++'s time for a function grows faster than its length.
FUNCTION_LENGTH = 12_000

_IDENTIFIER = re.compile(r"\b(?:[pi]_|memory_(?!index\b))\w+")
_MEMBER = re.compile(r"^\t(?:/\*(input|output|inout)\*/ )?(wire|value|memory)<(\d+)> (\w+)(?: \{ (\d+)u \})?;$")
_LOCAL = re.compile(r"^\tvalue<(\d+)> (\w+);$")
_ASSIGNMENT = re.compile(r"^\t+((?:[pi]_\w+)(?:\.(?:next|slice<[\d,]+>\(\)|concat\([^=]*\)))*) = ")
_TEMPORARY = re.compile(r"^\t(?:const value<\d+> &|auto )(tmp_\w+) = ")
_UPDATE = re.compile(r"^\t+(memory_\w+)\.update\(", re.MULTILINE)
_STATE = re.compile(r"\b([pi]_\w+)\.(curr|next)\b")
_CLOCKED = "\tif (posedge_p_clk) {"


class PartitionError(MvqError):
    """The C++ is not of the form that this version of Yosys writes, or the design has what is not supported."""


@dataclass
class _Statement:
    """``text`` and the names that it assigns and reads; ``clocked`` if it assigns registers or memories."""

    text: str
    defines: set
    uses: set
    clocked: bool


@dataclass(frozen=True)
class Partition:
    """C++ of a design.

    Attributes
    ----------
    header : text of ``design.h``: ``struct Design`` with ``settle``, ``clock`` and the ports, ``p_`` before their names
        and each underscore twice.
    sources : texts of the files that implement it.
    feedback : wires of combinational loops, which ``settle`` repeats itself for.
    """

    header: str
    sources: list
    feedback: list


def partition(text, files):
    """Rewrite ``text``, which ``write_cxxrtl -g0 -O6`` made of a flattened design with one clock ``clk``.

    Parameters
    ----------
    text : C++.
    files : number of C++ files to make; g++ compiles them side by side.

    Raises
    ------
    PartitionError : another clock or edge, a black box, or text that is not understood.
    """
    structure, initial, body = _sections(text)
    members, outputs = _members(structure)
    local_widths, statements = _statements(body, members)

    definers = {}
    for number, statement in enumerate(statements):
        for name in statement.defines:
            definers.setdefault(name, []).append(number)
    feedback = sorted(
        name
        for name, (kind, *_) in members.items()
        if kind == "wire" and any(not statements[number].clocked for number in definers.get(name, ()))
    )
    wanted = outputs | set(feedback)
    needs = _dependences(statements, definers, members)
    settle = _order([n for n, each in enumerate(statements) if not each.clocked and each.defines & wanted], needs)
    settled = set(settle)
    clock = _order([n for n, each in enumerate(statements) if each.clocked], needs)
    clock = [number for number in clock if number not in settled]

    programs = {"settle": _cut(settle, statements), "clock": _cut(clock, statements)}
    functions = {f"{name}_{i}": part for name, parts in programs.items() for i, part in enumerate(parts)}
    shared = _shared(functions, statements, local_widths)
    texts = [_function(name, part, statements, local_widths, shared) for name, part in functions.items()]
    texts.append(_top_functions(members, programs, feedback, _initial_values(initial)))
    shared_widths = {name: local_widths[name] for name in shared}
    header = _header(members, outputs, _write_ports(statements), shared_widths, functions)
    return Partition(header, _files(texts, files), feedback)


def _sections(text):
    """Lines of the struct's members, of ``reset`` and of ``eval``."""
    structs = re.findall(r"^struct (\w+) : public module \{$", text, flags=re.MULTILINE)
    if len(structs) != 1:
        raise PartitionError(f"CXXRTL wrote {len(structs)} modules: the design must be flat and without black boxes")
    found = []
    for start, end in (
        (rf"^struct {structs[0]} : public module \{{$", rf"^\t{structs[0]}\(interior\) \{{\}}$"),
        (rf"^void {structs[0]}::reset\(\) \{{$", r"^\}$"),
        (rf"^bool {structs[0]}::eval\(performer \*performer\) \{{$", r"^\treturn converged;$"),
    ):
        match = re.search(f"{start}(.*?){end}", text, flags=re.MULTILINE | re.DOTALL)
        if not match:
            raise PartitionError(f"CXXRTL's text has no part that begins with {start}: this Yosys is not supported")
        found.append([line for line in match[1].splitlines() if line.strip() and not line.lstrip().startswith("//")])
    return found


def _members(lines):
    """{name: (kind, width, depth)} and the names of the outputs."""
    members, outputs = {}, set()
    skip = False
    for line in lines:
        match = _MEMBER.match(line)
        if match:
            direction, kind, width, name, depth = match.groups()
            if name == "prev_p_clk":
                continue
            members[name] = (kind, int(width), int(depth or 0))
            if direction == "inout":
                raise PartitionError(f"port {name} is bidirectional, which is not supported")
            if direction == "output":
                outputs.add(name)
        elif line.startswith("\tbool posedge_p_clk() const {"):
            skip = True
        elif skip:
            skip = line != "\t}"
        else:
            raise PartitionError(f"member {line.strip()!r} is not supported: the design has one clock, clk")
    return members, outputs


def _statements(lines, members):
    """{local: width}, and the statements in their order."""
    locals_, blocks, depth = {}, [], 0
    for line in lines:
        if line.startswith(("\tbool converged = ", "\tbool posedge_p_clk = ")):
            continue
        match = _LOCAL.match(line)
        if match and depth == 0:
            locals_[match[2]] = int(match[1])
            continue
        if depth == 0:
            temporary = _TEMPORARY.match(line)
            follows = blocks and blocks[-1][0] and re.search(rf"\b{blocks[-1][0]}\b", line)
            if temporary:
                blocks.append((temporary[1], [line]))
            elif follows:
                blocks[-1][1].append(line)
            else:
                blocks.append((None, [line]))
        else:
            blocks[-1][1].append(line)
        depth += line.count("{") - line.count("}")
    return locals_, [_statement(block, members, locals_) for _, block in blocks]


def _statement(lines, members, locals_):
    clocked = lines[0] == _CLOCKED
    if clocked:
        lines = ["\t{", *lines[1:]]
    text = "\n".join(lines)
    if re.search(r"\b(posedge|negedge)_", text):
        raise PartitionError(f"a register has another clock or edge than clk's rising one: {lines[0].strip()}")
    defines = set()
    for line in lines:
        match = _ASSIGNMENT.match(line)
        if match:
            defines |= set(_IDENTIFIER.findall(match[1]))
        elif _UPDATE.match(line):
            defines.add(_UPDATE.match(line)[1])
    names = set(_IDENTIFIER.findall(text))
    unknown = names - members.keys() - locals_.keys()
    if unknown or not defines:
        raise PartitionError(f"CXXRTL's statement {lines[0].strip()[:120]!r} is not supported")
    return _Statement(_STATE.sub(r"\2.\1", text), defines, names - defines, clocked)


def _dependences(statements, definers, members):
    """For each statement, those that must run before it: what defines what it reads, and earlier parts of what it
    defines. Registers and memories are read as they were before the clock edge, so nothing need run before that."""
    needs = []
    for number, statement in enumerate(statements):
        before = set()
        for name in statement.uses:
            if members.get(name, ("value",))[0] == "value":
                before.update(definers.get(name, ()))
        for name in statement.defines:
            before.update(other for other in definers[name] if other < number)
        needs.append(sorted(before))
    return needs


def _order(sinks, needs):
    """``sinks`` and all that they need, each after what it needs and close to it."""
    order, state = [], {}
    for sink in sinks:
        stack = [sink]
        while stack:
            number = stack[-1]
            if state.get(number) == "done":
                stack.pop()
            elif number in state:
                state[number] = "done"
                order.append(stack.pop())
            else:
                state[number] = "open"
                missing = [other for other in needs[number] if other not in state]
                stack.extend(reversed(missing))
                if any(state.get(other) == "open" and other not in missing for other in needs[number]):
                    raise PartitionError("CXXRTL's statements depend on each other in a circle")
    return order


def _cut(order, statements):
    """``order`` in pieces of about FUNCTION_LENGTH characters."""
    pieces, length = [], FUNCTION_LENGTH
    for number in order:
        if length >= FUNCTION_LENGTH:
            pieces.append([])
            length = 0
        pieces[-1].append(number)
        length += len(statements[number].text)
    return pieces


def _shared(functions, statements, locals_):
    """Local variables that more than one function needs."""
    users = {}
    for name, part in functions.items():
        for number in part:
            for variable in statements[number].defines | statements[number].uses:
                if variable in locals_:
                    users.setdefault(variable, set()).add(name)
    return {variable for variable, names in users.items() if len(names) > 1}


def _function(name, part, statements, locals_, shared):
    used = set().union(*(statements[number].defines | statements[number].uses for number in part))
    own = [f"\tvalue<{locals_[variable]}> {variable};" for variable in sorted((used & locals_.keys()) - shared)]
    return "\n".join([f"void Design::{name}() {{", *own, *(statements[number].text for number in part), "}"])


def _initial_values(lines):
    """Statements that set what does not start as zero."""
    kept, table = [], []
    for line in lines:
        if line.startswith("\tstatic const value<"):
            table = [line]
        elif table:
            table.append(line)
            if line.startswith("\tstd::copy("):
                if re.search(r"0x0*[1-9a-f]|\b[1-9]\d*u", "".join(table[1:-1])):
                    kept += table
                table = []
        elif not re.search(r"= (wire|value)<\d+>\{[0xu,]*\};$", line):
            kept.append(re.sub(r"(\w+) = wire<", r"curr.\1 = next.\1 = value<", line))
    return kept


def _write_ports(statements):
    """Memory -> number of its write ports."""
    return Counter(name for statement in statements for name in _UPDATE.findall(statement.text))


def _header(members, outputs, write_ports, shared, functions):
    wires = {name: width for name, (kind, width, _) in members.items() if kind == "wire"}
    lines = ['#include "values.h"', "", "// Registers, and wires of combinational loops.", "struct State {"]
    lines += [f"\tvalue<{width}> {name};" for name, width in wires.items()]
    lines += ["};", "", "struct Design {", "\tstatic constexpr int SETTLE_LIMIT = 1000;", "\tState curr, next;"]
    for name, (kind, width, depth) in members.items():
        if kind == "memory":
            lines.append(f"\tmemory<{width}, {write_ports[name]}> {name} {{ {depth} }};")
        elif kind == "value":
            lines.append(f"\tvalue<{width}> {name};")
        elif name in outputs:
            lines.append(f"\tconst value<{width}> &{name} = curr.{name};")
    lines += [f"\tvalue<{width}> {name};" for name, width in sorted(shared.items())]
    lines += [f"\tvoid {name}();" for name in functions]
    lines += ["\tDesign();", "\tDesign(const Design &) = delete;", "\tint settle();", "\tvoid clock();", "};"]
    return "\n".join(lines) + "\n"


def _top_functions(members, programs, feedback, initial):
    calls = {name: [f"\t{name}_{i}();" for i in range(len(parts))] for name, parts in programs.items()}
    memories = [name for name, (kind, *_) in members.items() if kind == "memory"]
    repeat = [f"\tchanged |= update(curr.{name}, next.{name});" for name in feedback]
    return "\n".join(
        [
            *("Design::Design() {", *initial, "}"),
            "int Design::settle() {",
            "\tint deltas = 0;",
            "\tbool changed;",
            "\tdo {",
            *(f"\t{call}" for call in calls["settle"]),
            "\t\tchanged = false;",
            *(f"\t{line}" for line in repeat),
            "\t\tdeltas++;",
            "\t} while (changed && deltas < SETTLE_LIMIT);",
            "\treturn deltas;",
            "}",
            "void Design::clock() {",
            *calls["clock"],
            "\tcurr = next;",
            *(f"\t{name}.commit();" for name in memories),
            "}",
        ]
    )


def _files(texts, files):
    """``texts`` in ``files`` files of about the same length."""
    found = [['#include "design.h"'] for _ in range(files)]
    lengths = [0] * files
    for text in sorted(texts, key=len, reverse=True):
        shortest = lengths.index(min(lengths))
        found[shortest].append(text)
        lengths[shortest] += len(text)
    return ["\n\n".join(file) + "\n" for file in found]
