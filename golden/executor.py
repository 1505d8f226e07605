"""Runs a program from the memory image alone, as the hardware does, but whole tensors at a time.

Descriptors, subset headers, codewords, scales, entries and int8 weights are decoded from memory; L1, the codebook and
the partial sums between subsets are state. What the hardware refuses is refused with its error code.
"""

from collections import deque

import numpy as np

from golden.integer import Requantisation
from golden.masks import decode_masks
from golden.packing import unpack_bits, unpack_entries, word_count
from golden.program.formats import descriptor_fault, unpack_fields
from golden.program.operations import KINDS
from hdl.config import MvqError
from hdl.control.register_map import ErrorCode

__all__ = ["ExecutionError", "Executor"]

#: operations that wait in front of an engine, and the one that it works on.
_QUEUE_DEPTH = 3
#: bits of a sum over the window of a pool.
_POOL_WIDTH = 24
#: the largest sum of int8 products that float32 holds exactly has as many products as this.
_FLOAT32_PRODUCTS = 1024


class ExecutionError(MvqError):
    """A run that fails as the hardware's would.

    Parameters
    ----------
    code : :class:`~hdl.control.register_map.ErrorCode`. ``layer`` : number in the descriptor. ``reason`` : text.
    """

    def __init__(self, code, layer, reason):
        self.code, self.layer, self.reason = ErrorCode(code), layer, reason
        super().__init__(f"error {self.code.name.lower()} in layer {layer}: {reason}")


class Executor:
    """An accelerator with its memory.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    memory : uint8, changed in place. ``base`` : address of its first byte.
    memory_window, output_window : (first byte, first byte beyond) of what may be read and written; all of ``memory``
        when None.
    """

    def __init__(self, config, memory, *, base=0, memory_window=None, output_window=None):
        self.config, self.memory, self.base = config, memory, base
        everything = (base, base + len(memory))
        self.memory_window, self.output_window = memory_window or everything, output_window or everything
        array = config.array
        #: nonsense, as after power-up, so that a read of what nobody wrote shows.
        self.l1 = np.full((config.l1_vectors, config.vector_bytes), 0x55, np.int8)
        self.codebook = np.full((array.codewords, array.vector_length), 0x55, np.int8)
        self.psums = np.zeros((0, array.columns), np.int64)
        self.layer = 0
        self._header_fields, self._header_words = config.subset_fields, config.subset_words

    @classmethod
    def of(cls, program, memory):
        """Executor for a :class:`golden.program.Program` and its ``memory``, with the windows that it needs."""
        return cls(
            program.config,
            memory,
            base=program.base,
            memory_window=program.memory_window,
            output_window=program.output_window,
        )

    def run(self, address, length, rng=None):
        """Run a list of descriptors up to its ``end``.

        Parameters
        ----------
        address : of the first descriptor. ``length`` : descriptors in the list.
        rng : ``numpy.random.Generator`` that decides which engine goes on next, among those whose operation may begin;
            the order of the list when None.

        Raises
        ------
        ExecutionError : as the hardware would report it; a run that can never go on has the code of the watchdog.
        """
        queues, done = {kind: deque() for kind in KINDS}, dict.fromkeys(KINDS, 0)
        self.psums, number = self.psums[:0], 0
        descriptor = self._fetch(address, number, length)
        while descriptor[0] != "end" or any(queues.values()):
            queue = queues.get(descriptor[0], queues["compute"])
            ahead = rng is not None and rng.random() < 0.5
            if descriptor[0] != "end" and len(queue) < _QUEUE_DEPTH and (ahead or not any(queues.values())):
                queue.append(descriptor)
                number += 1
                descriptor = self._fetch(address, number, length)
            else:
                self._step(queues, done, rng)

    def _step(self, queues, done, rng):
        """Complete one operation whose waits are fulfilled."""
        ready = [
            kind
            for kind, queue in queues.items()
            if queue and all((done[other] - queue[0][1][f"wait_{other}s"]) % 256 < 128 for other in KINDS)
        ]
        if not ready:
            stuck = next(queue for queue in queues.values() if queue)
            raise ExecutionError(ErrorCode.WATCHDOG, stuck[0][1]["layer"], "no operation may begin any more")
        kind = ready[0] if rng is None else ready[rng.integers(len(ready))]
        operation, values = queues[kind].popleft()
        self.layer = values["layer"]
        getattr(self, f"_{operation}")(values)
        done[kind] += 1

    def _fetch(self, address, number, length):
        """(operation, values) of a descriptor."""
        config, address = self.config, address + number * self.config.descriptor_bytes
        if address % config.descriptor_bytes:
            raise ExecutionError(ErrorCode.MISALIGNED, 0, f"descriptor at {address:#x}")
        if number == length:
            raise ExecutionError(ErrorCode.TRUNCATED_LIST, 0, f"none of the {length} descriptors is an end")
        data = self._bytes(address, config.descriptor_bytes, self.memory_window)
        operation, values, code = descriptor_fault(data.tobytes(), config)
        if code:
            raise ExecutionError(code, values["layer"], f"descriptor {number} at {address:#x}")
        return operation, values

    def _bytes(self, address, count, window):
        """View of ``count`` bytes of memory inside ``window``."""
        if not window[0] <= address <= address + count <= window[1]:
            what = f"{count} bytes at {address:#x} lie outside {window[0]:#x} to {window[1]:#x}"
            raise ExecutionError(ErrorCode.OUT_OF_RANGE_MEMORY, self.layer, what)
        return self.memory[address - self.base : address - self.base + count]

    # ---- transfers
    # ------------------------------------------------------------------------------------------------------

    def _chunks(self, values, window):
        """(memory, L1) of each chunk: bytes, a row for each L1 word."""
        lanes, size = self.config.word_vectors, values["chunk_words"] * values["word_beats"] * self.config.bus_bytes
        for chunk in range(values["chunks"]):
            first = (values["l1_address"] + chunk * values["l1_stride"]) * lanes
            words = self.l1[first : first + values["chunk_words"] * lanes].reshape(values["chunk_words"], -1)
            data = self._bytes(values["memory_address"] + chunk * values["memory_stride"], size, window)
            yield data.reshape(len(words), -1), words.view(np.uint8)

    def _load(self, values):
        for data, words in self._chunks(values, self.memory_window):
            words[:, : data.shape[1]] = data
            words[:, data.shape[1] :] = 0

    def _store(self, values):
        for data, words in self._chunks(values, self.output_window):
            data[:] = words[:, : data.shape[1]]

    # ---- tensors in L1
    # --------------------------------------------------------------------------------------------------

    def _plane(self, address, count):
        """View of ``count`` vectors of L1."""
        if address + count > self.config.l1_vectors:
            reason = f"vectors {address} to {address + count - 1} of {self.config.l1_vectors}"
            raise ExecutionError(ErrorCode.OUT_OF_RANGE_L1, self.layer, reason)
        return self.l1[address : address + count]

    def _image(self, values, group, rows, columns, outside):
        """A plane with its padding: int8 (rows, columns, V), as windows see it from row -pad_top on."""
        height, width = values["ifmap_rows"], values["ifmap_columns"]
        plane = self._plane(values["ifmap_address"] + group * values["ifmap_plane"], height * width)
        top, left = values["pad_top"], values["pad_left"]
        image = np.full((rows, columns, plane.shape[-1]), outside, np.int8)
        seen = plane.reshape(height, width, -1)[: max(0, rows - top), : max(0, columns - left)]
        image[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return image

    def _taps(self, values, image, rows, columns):
        """For each tap of the window (column by column), the pixels (ofmap pixels, V) that it meets in ``image``."""
        sy, sx, height, width = (values[name] for name in ("stride_y", "stride_x", "ofmap_rows", "ofmap_columns"))
        for kx in columns:
            for ky in rows:
                pixels = image[ky : ky + (height - 1) * sy + 1 : sy, kx : kx + (width - 1) * sx + 1 : sx]
                yield pixels.reshape(height * width, -1)

    def _write(self, values, first, results):
        """Rescale ``results`` (pixels, groups, V) of the groups from ``first`` on, add the residual, and write them."""
        last, columns = values["ofmap_groups"] - 1, values["last_columns"]
        if values["rescale"]:
            residual = 0
            if values["residual"]:
                planes = [self._operand(values, first + group) for group in range(results.shape[1])]
                scale = Requantisation.from_words([values["residual_scale"]], 0, 0)
                residual = scale.scaled(np.stack(planes, axis=1))
            scale = Requantisation.from_words([values["scale"]], 0 if values["rescale_relu"] else -128, 0)
            total = scale.scaled(results) + residual
            results = np.clip((total + 32) >> 6, scale.low, values["rescale_high"])
        results = results.astype(np.int8)
        for group in range(results.shape[1]):
            vectors = self._plane(values["ofmap_address"] + (first + group) * values["ofmap_plane"], len(results))
            vectors[:] = results[:, group]
            if first + group == last:
                vectors[:, columns:] = 0

    def _operand(self, values, group):
        return self._plane(values["residual_address"] + group * values["residual_plane"], values["pixels"])

    def _vector(self, values):
        kernel = values["kernel_rows"], values["kernel_columns"]
        size = [
            (values[f"ofmap_{axis}"] - 1) * stride + count
            for axis, stride, count in zip(
                ("rows", "columns"), (values["stride_y"], values["stride_x"]), kernel, strict=True
            )
        ]
        for group in range(values["ofmap_groups"]):
            image = self._image(values, group, *size, -128 if values["maximum"] else 0)
            total = None
            for pixels in self._taps(values, image, *map(range, kernel)):
                if total is None:
                    total = pixels.astype(np.int64)
                elif values["maximum"]:
                    np.maximum(total, pixels, out=total)
                else:
                    total += pixels
            assert -(1 << _POOL_WIDTH - 1) <= total.min() <= total.max() < 1 << _POOL_WIDTH - 1
            self._write(values, group, total[:, None])

    # ---- convolutions
    # ---------------------------------------------------------------------------------------------------

    def _conv(self, values):
        config = self.config
        size = values["weight_words"] * config.bus_bytes
        stream = _Words(self._bytes(values["weights_address"], size, self.memory_window), config)
        images, groups = {}, 0
        while True:
            header = unpack_fields(stream.integer(self._header_words), self._header_fields)
            sums = self._subset(values, header, stream, images)
            if header["final"] or header["raw"]:
                self._finish(values, header, stream.scales, groups, sums)
                groups += header["out_channel_repeat"]
            else:
                self._keep(sums)
            if header["last"]:
                break
        if stream.left or groups != values["ofmap_groups"]:
            reason = f"its weights make {groups} of {values['ofmap_groups']} groups, {stream.left} bytes are left"
            raise ExecutionError(ErrorCode.WATCHDOG, self.layer, reason)

    def _subset(self, values, header, stream, images):
        """Partial sums (pixels, A, L) after one subset."""
        array = self.config.array
        if header.get("codewords"):
            self.codebook[: header["codewords"]] = stream.codewords(header["codewords"])
        stream.take_scales(header["scales"])
        weights = stream.weights(header, self.codebook)  # (B * D, A, H, L)
        rows = range(header["tap_row"], header["tap_row"] + header["tap_rows"])
        columns = range(header["tap_column"], header["tap_column"] + header["tap_columns"])
        size = [
            (values["ofmap_rows"] - 1) * values["stride_y"] + 14,
            (values["ofmap_columns"] - 1) * values["stride_x"] + 14,
        ]
        groups = range(header["in_group"], header["in_group"] + header["in_groups"])
        for group in groups:
            if group not in images:
                images[group] = self._image(values, group, *size, 0)
        taps = [list(self._taps(values, images[group], rows, columns)) for group in groups]
        windows = np.stack(taps, axis=1).transpose(2, 0, 1, 3)  # (pixels, D, B, H)
        if header["rows"] < array.rows and windows[..., header["rows"] :].any():
            raise AssertionError(f"layer {self.layer}: an ifmap has values in channels whose weights are not loaded")
        exact = np.float32 if weights[:, 0].shape[0] * array.rows <= _FLOAT32_PRODUCTS else np.float64
        matrix = weights.transpose(0, 2, 1, 3).reshape(-1, header["out_channel_repeat"] * array.columns)
        sums = windows.reshape(values["pixels"], -1).astype(exact) @ matrix.astype(exact)
        sums = sums.astype(np.int64).reshape(-1, array.columns)
        if header["accumulate"]:
            if len(self.psums) < len(sums):
                reason = f"{len(sums)} partial sums are wanted, but {len(self.psums)} are there"
                raise ExecutionError(ErrorCode.WATCHDOG, self.layer, reason)
            sums, self.psums = sums + self.psums[: len(sums)], self.psums[len(sums) :]
        half = 1 << array.psum_width - 1
        sums = (sums + half) % (2 * half) - half
        return sums.reshape(values["pixels"], -1, array.columns)

    def _keep(self, sums):
        self.psums = np.concatenate([self.psums, sums.reshape(-1, sums.shape[-1])])
        if len(self.psums) > self.config.psum_vectors:
            reason = f"{len(self.psums)} partial sums wait, but there is room for {self.config.psum_vectors}"
            raise ExecutionError(ErrorCode.WATCHDOG, self.layer, reason)

    def _finish(self, values, header, scales, first, sums):
        """Requantise and write complete sums; raw ones as four vectors of int32 each."""
        if not values["raw"]:
            limits = (0 if values["relu"] else -128, values["high"])
            scale = Requantisation.from_words(scales.reshape(-1), *limits)
            self._write(values, first, scale.apply(sums.reshape(len(sums), -1)).reshape(sums.shape))
            return
        for group in range(header["out_channel_repeat"]):
            raw = sums[:, group].astype("<i4")
            if first + group == values["ofmap_groups"] - 1:
                raw[:, values["last_columns"] :] = 0
            address = values["ofmap_address"] + (first + group) * values["ofmap_plane"]
            vectors = self._plane(address, 4 * len(raw))
            vectors[:] = np.ascontiguousarray(raw).view(np.int8).reshape(vectors.shape)


class _Words:
    """The weight stream of one convolution, decoded part by part."""

    def __init__(self, data, config):
        self.data, self.config = data, config
        self.array, self.position = config.array, 0
        self.scales = None

    @property
    def left(self):
        """Bytes not taken."""
        return len(self.data) - self.position

    def take(self, words):
        """The next ``words`` words of the bus, uint8."""
        data = self.data[self.position : self.position + words * self.config.bus_bytes]
        if len(data) < words * self.config.bus_bytes:
            raise ExecutionError(ErrorCode.WATCHDOG, 0, "weights are missing")
        self.position += len(data)
        return data

    def integer(self, words):
        """The next words as one integer."""
        return int.from_bytes(self.take(words).tobytes(), "little")

    def codewords(self, count):
        """int8 (count, d)."""
        data = self.take(count * self.array.codeword_words).view(np.int8)
        return data.reshape(count, -1)[:, : self.array.vector_length]

    def take_scales(self, count):
        """Set ``scales``: uint32 (count, L)."""
        data = np.ascontiguousarray(self.take(count * self.array.scale_words)).view("<u4")
        self.scales = data.reshape(count, -1)[:, : self.array.columns] if count else None

    def weights(self, header, codebook):
        """int8 (B * D, A, H, L) of a subset, dense passes merged; rows that are not loaded are zero."""
        array, rows, entries = self.array, header["rows"], header["entries"]
        loaded = self._compressed if header.get("compressed") else self._raw
        words = loaded(header, entries * rows, codebook).reshape(entries, rows, array.columns)
        weights = np.zeros((entries, array.rows, array.columns), np.int8)
        weights[:, :rows] = words
        passes, repeat = header["passes"], header["out_channel_repeat"]
        return weights.reshape(header["vectors"], passes, repeat, array.rows, array.columns).sum(axis=1, dtype=np.int8)

    def _compressed(self, header, rows, codebook):
        array = self.array
        count = rows * array.groups
        words = -(-count * array.entry_width // array.stream_width)
        packed = np.ascontiguousarray(self.take(words)).view("<u8").astype(np.uint64)
        entries = unpack_bits(packed[: word_count(count, array.entry_width)], array.entry_width, count)
        index, codes = unpack_entries(entries, array.index_width, array.mask_code_width, array.mask_groups)
        vectors = codebook[index]
        if array.has_masks:
            vectors = vectors * decode_masks(codes, array.n, array.m).reshape(vectors.shape)
        return vectors

    def _raw(self, header, rows, codebook):
        array = self.array
        each = array.raw_vectors or 1
        turns = rows * (array.groups // each)
        data = self.take(turns * array.raw_words).view(np.int8).reshape(turns, -1)
        vectors = data[:, : each * array.multipliers_per_vector]
        if array.tile == "dense":
            return vectors
        picked = vectors.reshape(header["entries"], header["rows"], -1, array.n)
        offset = self._offsets(header)[..., None, None] + np.arange(array.n)
        weights = np.zeros((*picked.shape[:-1], array.m), np.int8)
        np.put_along_axis(weights, np.broadcast_to(offset, picked.shape), picked, axis=-1)
        return weights

    def _offsets(self, header):
        """First weight of each group of M that an entry and row brings: (entries, rows) or broadcast to it."""
        array, most = self.array, self.array.m - self.array.n
        if header["diagonal"]:
            return np.minimum(np.arange(header["rows"]) % array.m, most)[None]
        number = np.arange(header["entries"]) // header["out_channel_repeat"] % header["passes"]
        return np.minimum(header["pass_offset"] + number * array.n, most)[:, None]
