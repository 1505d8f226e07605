"""Places of tensors in L1."""

__all__ = ["L1Space"]


class L1Space:
    """Who lies where in L1, in words.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    places : name -> range of words.
    """

    def __init__(self, config, places=None):
        self.config = config
        self.places = dict(places or {})

    def without(self, names):
        """A copy in which the places of ``names`` are free."""
        return L1Space(self.config, {name: place for name, place in self.places.items() if name not in names})

    def banks(self, name):
        """Banks that ``name`` touches; none where it has no place."""
        place = self.places.get(name, range(0))
        size = self.config.l1_bank_words
        return set(range(place.start // size, -(-place.stop // size)))

    @property
    def used(self):
        """Words in use."""
        return sum(map(len, self.places.values()))

    def place(self, name, words, apart=(), *, busy=(), soon=0):
        """Find a place for ``words`` words in banks that none of the names in ``apart`` touches; False if there is
        none.

        The first ``soon`` words keep out of the ranges ``busy`` where they can. Then banks of its own are preferred,
        then the smallest gap.
        """
        forbidden = set().union(*(self.banks(other) for other in apart))
        occupied = set().union(*(self.banks(other) for other in self.places))
        size, best = self.config.l1_bank_words, None
        for gap in self._gaps():
            edges = range(-(-gap.start // size) * size, gap.stop + 1, size)
            starts = {gap.start, gap.stop - words, *edges, *(edge - words for edge in edges)}
            starts |= {edge for place in busy for edge in (place.stop, place.start - soon)}
            for start in starts:
                if start < gap.start or start + words > gap.stop:
                    continue
                touched = set(range(start // size, -(-(start + words) // size)))
                if touched & forbidden:
                    continue
                early = soon and any(start < place.stop and place.start < start + soon for place in busy)
                score = (
                    early,
                    len(touched & occupied),
                    len(gap),
                    min(start - gap.start, gap.stop - start - words),
                    start,
                )
                if best is None or score < best:
                    best = score
        if best is None:
            return False
        self.places[name] = range(best[-1], best[-1] + words)
        return True

    def _gaps(self):
        position = 0
        for place in sorted(self.places.values(), key=lambda place: place.start):
            if place.start > position:
                yield range(position, place.start)
            position = max(position, place.stop)
        if position < self.config.l1_words:
            yield range(position, self.config.l1_words)
