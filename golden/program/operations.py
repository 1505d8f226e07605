"""Operations of a program, and how long each must wait for the others.

Loads, stores and computes run in three engines, each in order and side by side with the others. An operation waits for
an earlier one of another kind that writes what it reads, reads what it writes, or writes what it writes; and where two
that may run side by side would meet in a bank of L1: the reads of a compute and of a store, or the writes of a compute
and of a load. A compute waits for an earlier compute only when it reads its result, or when its ifmap lies in the bank
of the other's residual: the engine's own order does the rest.
"""

from dataclasses import dataclass, field

from golden.program.formats import descriptor_bytes

__all__ = ["KINDS", "Operation", "Span", "Timeline"]

#: kinds of engine, as in the descriptor's ``wait_*`` fields.
KINDS = ("load", "store", "compute")
#: operations of a kind that may be behind or ahead of the one a descriptor waits for; the fields compare up to 127.
_WINDOW = 32


@dataclass(frozen=True)
class Span:
    """``count`` runs of ``length`` places, ``stride`` apart from ``start`` on."""

    start: int
    length: int
    stride: int = 0
    count: int = 1

    @property
    def end(self):
        """The place beyond the last."""
        return self.start + (self.count - 1) * self.stride + self.length

    def overlaps(self, other):
        """True when a place lies in both."""
        if self.start >= other.end or other.start >= self.end:
            return False
        if self.dense and other.dense:
            return True
        few, many = sorted((self, other), key=lambda span: span.count)
        return any(many.meets(few.start + i * few.stride, few.length) for i in range(few.count))

    @property
    def dense(self):
        """True without gaps."""
        return self.count == 1 or self.stride == self.length

    def meets(self, start, length):
        """True when a run lies in [start, start + length)."""
        if self.count == 1:
            return self.start < start + length and start < self.start + self.length
        first = max(0, -(-(start - self.start - self.length + 1) // self.stride))
        return first < self.count and self.start + first * self.stride < start + length


@dataclass(kw_only=True)
class Operation:
    """One descriptor.

    Parameters
    ----------
    opcode : ``conv``, ``vector``, ``load`` or ``store``. ``layer`` : number of the layer. ``fields`` : of the
        descriptor, without header.
    ifmap, residual : L1 that it reads, in vectors. ``source`` : L1 that a store reads. ``result`` : L1 that it writes.
    memory_read, memory_written : bytes.
    waits : kind -> operations of that kind since the start that must be complete; set by :class:`Timeline`.
    """

    opcode: str
    layer: int
    fields: dict
    ifmap: Span | None = None
    residual: Span | None = None
    source: Span | None = None
    result: Span | None = None
    memory_read: Span | None = None
    memory_written: Span | None = None
    waits: dict = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def kind(self):
        """One of :data:`KINDS`."""
        return self.opcode if self.opcode in KINDS else "compute"

    def to_bytes(self, config):
        """The descriptor."""
        waits = {f"wait_{kind}s": count % 256 for kind, count in self.waits.items()}
        return descriptor_bytes(self.opcode, {"layer": self.layer, **waits, **self.fields}, config)


def _overlap(ones, others):
    return any(a.overlaps(b) for a in ones if a is not None for b in others if b is not None)


class Timeline:
    """The operations of a program in order, each with its waits.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    """

    def __init__(self, config):
        self.bank_vectors = config.l1_bank_words * config.word_vectors
        self.operations = []
        self._by_kind = {kind: [] for kind in KINDS}
        # what has been complete since before the last operation of each kind began
        self._known = {kind: dict.fromkeys(KINDS, 0) for kind in KINDS}

    def append(self, operation):
        """Add ``operation`` after the others and set its waits."""
        known = self._known[operation.kind]
        for kind, earlier in self._by_kind.items():
            known[kind] = max(known[kind], len(earlier) - _WINDOW)
            for number in range(len(earlier), known[kind], -1):
                if self._must_wait(operation, earlier[number - 1]):
                    known[kind] = number
                    break
        operation.waits = dict(known)
        self.operations.insert(self._place(operation), operation)
        self._by_kind[operation.kind].append(operation)

    def _place(self, operation):
        """Index in the list for ``operation``: the end, or for a load as far up as its waits allow."""
        index = len(self.operations)
        if operation.kind != "load":
            return index
        counts = {kind: len(earlier) for kind, earlier in self._by_kind.items()}
        while index:
            kind = self.operations[index - 1].kind
            if kind == "load" or counts[kind] <= operation.waits[kind] + (kind == "compute"):
                break
            counts[kind] -= 1
            index -= 1
        return index

    def _must_wait(self, new, old):
        reads, old_reads = (new.ifmap, new.residual, new.source), (old.ifmap, old.residual, old.source)
        if _overlap(reads, (old.result,)) or _overlap((new.memory_read,), (old.memory_written,)):
            return True
        if new.kind == old.kind:
            return new.kind == "compute" and self._same_bank((new.ifmap,), (old.residual,))
        if _overlap((new.result,), (*old_reads, old.result)):
            return True
        if _overlap((new.memory_written,), (old.memory_read, old.memory_written)):
            return True
        if {new.kind, old.kind} == {"compute", "store"}:
            return self._same_bank(reads, old_reads)
        if {new.kind, old.kind} == {"compute", "load"}:
            return self._same_bank((new.result,), (old.result,))
        return False

    def _same_bank(self, ones, others):
        masks = [self._banks(spans) for spans in (ones, others)]
        return masks[0] & masks[1] != 0

    def _banks(self, spans):
        mask = 0
        for span in spans:
            if span is not None:
                first, last = span.start // self.bank_vectors, (span.end - 1) // self.bank_vectors
                mask |= (1 << last + 1) - (1 << first)
        return mask
