"""Cycles of a program on the accelerator, exactly: every engine's state, without its data, cycle by cycle.

What each engine does in a cycle is stated in the docstring of its gateware; this is the same in integers, compiled by
numba. The memory behind the bus answers a burst of reads after a fixed latency, one beat a cycle, in order, and takes
writes at once; it may be one that takes few addresses ahead. L1 never makes an engine wait: the planner puts what meets
into different banks.
"""

import functools
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numba
import numpy as np

from golden.program.formats import descriptor_fault, unpack_fields
from golden.schedule import raw_row_words
from hdl.config import MvqError

__all__ = ["COUNTERS", "MemoryTiming", "ProgramTiming", "decode", "predict", "simulate"]

# Columns of the table of operations. These, and those of the subsets, are for golden.work, too.
KIND, WAIT_LOADS, WAIT_STORES, WAIT_COMPUTES = range(4)
ADDRESS, STRIDE, CHUNK_BEATS, CHUNKS = range(4, 8)  # load, store; in beats
WEIGHTS, WEIGHT_BEATS = range(4, 6)  # conv; in beats
RESULTS, PIXELS, RAW, RESIDUAL, WINDOW, IS_VECTOR, OP_READS = range(6, 13)  # conv, vector
OP_COLUMNS = 13
CONV, VECTOR, LOAD, STORE, END = 1, 2, 3, 4, 15

# Columns of the table of weight subsets.
CODEBOOK_WORDS, SCALE_WORDS, WEIGHT_WORDS, RECORDS, COMPRESSED = range(5)
ENTRIES, SCALES, GROUPS, PASSES, VECTORS, FRESH, ROW_PIXELS, SUBSET_PIXELS, WALK = range(5, 14)
ACCUMULATE, COMPLETE, LAST, READS = range(14, 18)
SUBSET_COLUMNS = 18

# States of the dispatcher and of the weight loader.
_FETCH, _COLLECT, _CHECK, _DISPATCH, _DRAIN = range(5)
_IDLE, _CODEBOOK, _SCALES, _COMPRESSED, _RAW, _LOADED = range(6)
_DESCRIPTORS, _WEIGHTS, _LOADS = range(3)

#: seconds between two reports of progress.
_PROGRESS_SECONDS = 0.2
#: what is counted, in the order of the result.
COUNTERS = ("busy_cycles", "weight_stalls", "activation_stalls", "bus_read_beats", "bus_write_beats", "l1_reads")
COUNTERS += ("l1_writes", "psum_reads", "psum_writes")


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """The memory behind the bus.

    Parameters
    ----------
    read_latency : cycles from an address that is taken to its first beat, at least 1.
    write_latency : cycles from the last beat of a burst to its answer, at least 1.
    read_addresses : addresses of reads that wait in the memory; 0 for any number. It has no ready in the cycle after
        one in which so many waited. The next leaves them when the last beat of the burst before has entered a queue of
        ``read_beats`` beats, from which a beat leaves in the cycle before the bus has it. ``read_latency`` is at least
        2 with such a memory.
    """

    read_latency: int = 20
    write_latency: int = 20
    read_addresses: int = 0
    read_beats: int = 2


@dataclass(frozen=True, eq=False)
class ProgramTiming:
    """When a program does what.

    Attributes
    ----------
    cycles : from the first cycle of the run to the last, as the register ``cycles`` counts them.
    completed : int64, for each descriptor the cycle in which it was complete; -1 for ``end``.
    counters : name -> value of the counter registers.
    counted : int64 (descriptors, counters), what the counters of :data:`COUNTERS` held in that cycle; 0 for ``end``.
    """

    cycles: int
    completed: np.ndarray
    counters: dict
    counted: np.ndarray


@numba.njit(cache=True)
def _next_burst(address, left, longest):
    return min(left, longest - address % longest)


@numba.njit(cache=True, nogil=True)
def _run(ops, subsets, sizes, limit, completed_at):
    (
        program,
        descriptor_beats,
        longest,
        outstanding,
        weight_room,
        load_room,
        header_words,
        word_bits,
        record_bits,
        wrf_depth,
        scale_depth,
        arf_depth,
        latency,
        psum_depth,
        word_beats,
        read_latency,
        write_latency,
        read_addresses,
        read_beats,
    ) = sizes
    count = len(ops)
    counters, counted_at = np.zeros(9, np.int64), np.zeros((count, 9), np.int64)

    # Which operations each engine gets, in order.
    queue_ops = np.zeros((5, count), np.int64)  # loads, stores, weights, windows, results
    pushed, popped = np.zeros(5, np.int64), np.zeros(5, np.int64)
    totals = np.zeros(5, np.int64)
    for index in range(count):
        kind = ops[index, KIND]
        if kind in (LOAD, STORE):
            which = 0 if kind == LOAD else 1
            queue_ops[which, totals[which]] = index
            totals[which] += 1
        elif kind in (CONV, VECTOR):
            for which in range(2 if kind == CONV else 3, 5):
                queue_ops[which, totals[which]] = index
                totals[which] += 1
    done_count = np.zeros(3, np.int64)  # loads, stores, computes
    under_way = np.zeros(3, np.int64)

    # Dispatcher.
    state, at, beat = _FETCH, 0, 0

    # Read master and the memory behind it.
    client_active = np.zeros(3, np.bool_)
    client_address, client_left = np.zeros(3, np.int64), np.zeros(3, np.int64)
    room = np.array([max(descriptor_beats, longest), weight_room, load_room])
    level = np.zeros(3, np.int64)  # beats in the buffers
    bursts = 0  # under way
    ar_client, ar_beats = -1, 0
    ring_size = 256
    memory_client, memory_beats = np.zeros(ring_size, np.int64), np.zeros(ring_size, np.int64)
    memory_time = np.zeros(ring_size, np.int64)
    memory_head, memory_tail = 0, 0
    ar_ready, memory_started, beats_unread, beats_ready = True, 0, 0, 0  # of a memory that takes few addresses

    # Write master.
    write_active, write_address, write_left, owed, writes = False, 0, 0, 0, 0
    w_valid, w_last, w_ends, begun_ends = False, False, False, False
    answer_time, answer_ends = np.zeros(ring_size, np.int64), np.zeros(ring_size, np.bool_)
    answer_head, answer_tail = 0, 0
    write_done = False

    # Load engine.
    load_op, load_requests, load_address, load_beat, load_words = -1, 0, 0, 0, 0
    # Store engine.
    store_op, store_requests, store_address, store_answers = -1, 0, 0, 0
    store_reads, store_reserved, store_arriving, store_level, store_beat = 0, 0, False, 0, 0

    # Subset splitter.
    header, split, walked = 0, 0, 0  # header words; subsets announced, and taken by the window loader
    weight_ops = 0  # in the splitter's queue
    announced = np.zeros(len(subsets) + 1, np.int64)  # subsets that end their output channels
    blocks_pushed, blocks_popped = 0, 0

    # Weight loader.
    loader, loader_subset, words_left, level_bits, records_left = _IDLE, -1, 0, 0, 0
    entries_used, scales_used = 0, 0

    # Sequencer, activation file.
    active, fresh_subset, current = False, False, -1
    group, dense_pass, vector, row_left, pixels_left = 0, 0, 0, 0, 0
    held, ahead = 0, 0

    # What travels down the array, and the output register.
    pipe = np.zeros((latency, 6), np.int64)  # valid, first and accumulate, last, entries freed, scales freed, subset
    pipe_at = 0
    out_valid, out_complete = False, False

    # Partial-sum buffer.
    stored, offered = 0, False

    # Window loader.
    op_waits, subset_waits, walking = -1, -1, False
    walk_left, walk_vector, walk_window, walk_phase = 0, False, 0, 0
    reserved, arriving, ring = 0, False, 0
    ring_types, ring_in, ring_out = np.zeros(16, np.int64), 0, 0  # 0 conv, 1 vector, 2 vector that ends its window

    # Ofmap storer.
    place_op, settings_wait, place_left, block_left = -1, -1, 0, 0
    places, residuals, residual_arriving = 0, 0, False
    place_ends = np.zeros(8, np.bool_)
    places_in, places_out = 0, 0
    result_op, part = -1, 0
    emit, emit_end, done_now, result_written = False, False, False, False

    begins, request_ready = np.zeros(5, np.bool_), np.zeros(3, np.bool_)
    cycle = 0
    while cycle < limit:
        # ---- bus: what is offered in this cycle
        arrives = memory_head != memory_tail and cycle >= memory_time[memory_head % ring_size]
        answered = answer_head != answer_tail and cycle >= answer_time[answer_head % ring_size]

        # ---- core: does the pipeline move?
        b_valid = pipe[pipe_at, 0] == 1
        wants = b_valid and pipe[pipe_at, 1] == 1

        # ---- storer
        ring_valid = ring > 0
        ring_type = ring_types[ring_out % 16]
        is_vector = result_op >= 0 and ops[result_op, IS_VECTOR] == 1
        is_raw = result_op >= 0 and ops[result_op, RAW] == 1
        has_residual = result_op >= 0 and ops[result_op, RESIDUAL] == 1
        if is_vector:
            result_offered = ring_valid and ring_type > 0
            ends_window = ring_type == 2
        else:
            result_offered = out_valid and out_complete
            ends_window = True
        result_step = (
            result_op >= 0 and result_offered and places > 0 and (residuals > 0 or not has_residual or not ends_window)
        )
        leaves = result_step and ends_window and (not is_raw or part == 3)
        core_taken = leaves and not is_vector
        settings_ready = result_op < 0 or (leaves and place_ends[places_out % 8])

        psum_room = stored != psum_depth
        ofmap_ready = core_taken if out_complete else psum_room
        blocked = out_valid and not ofmap_ready
        step = not blocked and (not wants or offered)
        psum_taken = wants and not blocked and offered
        psum_written = out_valid and not out_complete and psum_room

        # ---- sequencer
        available = ahead != held
        issue = active and available
        go = issue and step
        end, advance, free, last_vector, last_pass, last_group = False, False, False, False, False, False
        if go:
            last_group = group == subsets[current, GROUPS] - 1
            last_pass = dense_pass == subsets[current, PASSES] - 1
            last_vector = vector == subsets[current, VECTORS] - 1
            end = last_group and last_pass and last_vector and pixels_left == 1
            advance = last_group and last_pass
            free = advance and (row_left == 1 or pixels_left == 1 or vector < subsets[current, FRESH])
        subset_ready = not active or end
        handed_over = loader == _LOADED and subset_ready

        # ---- window loader
        window_taken = False
        if ring_valid:
            window_taken = (result_step and is_vector) if ring_type > 0 else held != arf_depth
        enter = ring_valid and ring_type == 0 and window_taken
        window_advance = walking and reserved != 3
        walk_ends = window_advance and walk_left == 1
        walk_start = False
        if op_waits >= 0 and (not walking or walk_ends):
            walk_start = ops[op_waits, IS_VECTOR] == 1 or subset_waits >= 0
        walk_op_done = walk_start and (ops[op_waits, IS_VECTOR] == 1 or subsets[subset_waits, LAST] == 1)
        window_op_ready = op_waits < 0 or walk_op_done
        window_subset_ready = subset_waits < 0 or (walk_start and ops[op_waits, IS_VECTOR] == 0)

        # ---- subset splitter and weight loader
        loading = loader != _IDLE and loader != _LOADED
        complete = header == header_words
        accepted = False
        if complete and loader == _IDLE and weight_ops > 0 and split - walked < 4 and blocks_pushed - blocks_popped < 4:
            accepted = (
                entries_used + subsets[split, ENTRIES] <= wrf_depth
                and scales_used + subsets[split, SCALES] <= scale_depth
            )
        word_offered = level[_WEIGHTS] > 0
        word_taken = False
        record = loader == _COMPRESSED and level_bits >= record_bits
        if loader == _COMPRESSED:
            ends_section = record and records_left == 1
            bits_left = level_bits - record_bits if record else level_bits
            word_taken = word_offered and not ends_section and bits_left < record_bits
        elif loading:
            word_taken = word_offered
        else:
            word_taken = word_offered and not complete

        # ---- load engine
        load_done, load_taken = False, False
        if load_op >= 0 and level[_LOADS] > 0:
            load_taken = True
            load_done = load_words == 1 and load_beat == word_beats - 1

        # ---- store engine and write master
        store_read = store_reads > 0 and store_reserved != 4
        may_begin = write_active and owed == 0 and writes != outstanding
        send = store_level > 0 and (may_begin or owed != 0)
        begin = send and owed == 0
        write_beats = _next_burst(write_address, write_left, longest) if write_active else 0
        write_last = write_left == write_beats
        write_request_ready = not write_active or (begin and write_last)
        store_popped = send and store_beat == word_beats - 1
        store_done = write_done and store_answers == 1

        # ---- dispatcher
        descriptor_taken = state == _COLLECT and level[_DESCRIPTORS] > 0

        # ---- read master: which burst is issued
        issued = -1
        if bursts != outstanding and (ar_client < 0 or ar_ready):
            for client in range(3):
                wanted = _next_burst(client_address[client], client_left[client], longest)
                if client_active[client] and wanted <= room[client]:
                    issued = client
                    break

        # ---- queues: what may leave
        for which in range(5):
            begins[which] = False
            if popped[which] != pushed[which]:
                index = queue_ops[which, popped[which]]
                begins[which] = which == 2 or (
                    (done_count[0] - ops[index, WAIT_LOADS]) % 256 < 128
                    and (done_count[1] - ops[index, WAIT_STORES]) % 256 < 128
                    and (done_count[2] - ops[index, WAIT_COMPUTES]) % 256 < 128
                )
        for client in range(3):
            request_ready[client] = not client_active[client] or (
                issued == client
                and _next_burst(client_address[client], client_left[client], longest) == client_left[client]
            )
        place_end = place_op >= 0 and place_left == 1
        place_valid = place_op >= 0 and (ops[place_op, IS_VECTOR] == 1 or blocks_pushed != blocks_popped)
        place_advance = place_valid and places != 3
        result_op_ready = (place_op < 0 or (place_advance and place_end)) and (settings_wait < 0 or settings_ready)

        # ==== the clock edge
        counters[0] += go
        counters[1] += subset_ready and not issue and loading
        counters[2] += active and not available
        counters[3] += arrives
        counters[4] += w_valid
        counters[7] += psum_taken
        counters[8] += psum_written

        # read master
        if ar_client >= 0 and ar_ready:
            slot = memory_tail % ring_size
            memory_client[slot], memory_beats[slot] = ar_client, ar_beats
            memory_time[slot] = cycle + read_latency
            memory_tail += 1
            ar_client = -1
        if issued >= 0:
            beats = _next_burst(client_address[issued], client_left[issued], longest)
            ar_client, ar_beats = issued, beats
            client_address[issued] += beats
            client_left[issued] -= beats
            client_active[issued] = client_left[issued] != 0
            room[issued] -= beats
            bursts += 1
        taken = (descriptor_taken, word_taken, load_taken)
        for client in range(3):
            if taken[client]:
                level[client] -= 1
                room[client] += 1
        if arrives:
            slot = memory_head % ring_size
            level[memory_client[slot]] += 1
            memory_beats[slot] -= 1
            if memory_beats[slot] == 0:
                memory_head += 1
                bursts -= 1
        if read_addresses != 0:
            ar_ready = memory_tail - memory_started < read_addresses
            if beats_ready != 0 and cycle + 1 >= memory_time[memory_head % ring_size]:
                beats_ready -= 1
            while True:
                beats = min(beats_unread, read_beats - beats_ready)
                beats_unread -= beats
                beats_ready += beats
                if beats_unread != 0 or memory_started == memory_tail:
                    break
                beats_unread = memory_beats[memory_started % ring_size]
                memory_started += 1

        # dispatcher
        finished = False
        if state == _FETCH:
            if request_ready[_DESCRIPTORS]:
                client_active[_DESCRIPTORS] = True
                client_address[_DESCRIPTORS] = program + at * descriptor_beats
                client_left[_DESCRIPTORS] = descriptor_beats
                state, beat = _COLLECT, 0
        elif state == _COLLECT:
            if descriptor_taken:
                beat += 1
                if beat == descriptor_beats:
                    state = _CHECK
        elif state == _CHECK:
            state = _DRAIN if ops[at, KIND] == END else _DISPATCH
        elif state == _DISPATCH:
            kind = ops[at, KIND]
            first, last, counted = 0, 1, 0
            if kind == STORE:
                first, last, counted = 1, 2, 1
            elif kind == CONV:
                first, last, counted = 2, 5, 2
            elif kind == VECTOR:
                first, last, counted = 3, 5, 2
            fits = under_way[counted] < 127
            for which in range(first, last):
                fits = fits and pushed[which] - popped[which] < 2
            if fits:
                for which in range(first, last):
                    pushed[which] += 1
                under_way[counted] += 1
                at += 1
                state = _FETCH
        else:
            finished = under_way[0] == 0 and under_way[1] == 0 and under_way[2] == 0

        # operations leave their queues
        if begins[0] and load_op < 0:
            load_op = queue_ops[0, popped[0]]
            popped[0] += 1
            load_requests, load_address = ops[load_op, CHUNKS], ops[load_op, ADDRESS]
            load_words = ops[load_op, CHUNKS] * ops[load_op, CHUNK_BEATS] // word_beats
            fresh_load = True
        else:
            fresh_load = False
        if load_op >= 0 and not fresh_load and load_requests > 0 and request_ready[_LOADS]:
            client_active[_LOADS] = True
            client_address[_LOADS], client_left[_LOADS] = load_address, ops[load_op, CHUNK_BEATS]
            load_address += ops[load_op, STRIDE]
            load_requests -= 1
        if load_taken:
            load_beat += 1
            if load_beat == word_beats:
                load_beat = 0
                load_words -= 1
                counters[6] += 1
        if load_done:
            completed_at[load_op], counted_at[load_op] = cycle, counters
            load_op = -1
            done_count[0] += 1
            under_way[0] -= 1

        # write master
        if w_valid:
            if w_last:
                answer_time[answer_tail % ring_size] = cycle + write_latency
                answer_ends[answer_tail % ring_size] = w_ends
                answer_tail += 1
            w_valid = False
        store_answers -= write_done
        write_done = False
        if answered:
            write_done = answer_ends[answer_head % ring_size]
            answer_head += 1
            writes -= 1
        if begin:
            writes += 1
            begun_ends = write_last
            owed = write_beats
            write_address += write_beats
            write_left -= write_beats
            write_active = not write_last
        if send:
            w_valid, w_last, w_ends = True, owed == 1, begun_ends
            owed -= 1

        # store engine
        fresh_store = False
        if begins[1] and store_op < 0:
            store_op = queue_ops[1, popped[1]]
            popped[1] += 1
            store_requests, store_address = ops[store_op, CHUNKS], ops[store_op, ADDRESS]
            store_answers = ops[store_op, CHUNKS]
            fresh_store = True
        if store_op >= 0 and not fresh_store and store_requests > 0 and write_request_ready:
            write_active = True
            write_address, write_left = store_address, ops[store_op, CHUNK_BEATS]
            store_address += ops[store_op, STRIDE]
            store_requests -= 1
        if store_arriving:
            store_level += 1
        store_reserved += store_read - store_popped
        store_arriving = store_read
        if store_read:
            store_reads -= 1
            counters[5] += 1
        if send:
            store_beat += 1
            if store_popped:
                store_beat = 0
                store_level -= 1
        if fresh_store:
            store_reads = ops[store_op, CHUNKS] * ops[store_op, CHUNK_BEATS] // word_beats
        if store_done:
            completed_at[store_op], counted_at[store_op] = cycle, counters
            store_op = -1
            done_count[1] += 1
            under_way[1] -= 1

        # weight path
        if begins[2] and weight_ops < 2 and request_ready[_WEIGHTS]:
            index = queue_ops[2, popped[2]]
            popped[2] += 1
            weight_ops += 1
            client_active[_WEIGHTS] = True
            client_address[_WEIGHTS], client_left[_WEIGHTS] = ops[index, WEIGHTS], ops[index, WEIGHT_BEATS]
        if accepted and subsets[split, LAST] == 1:
            weight_ops -= 1
        if word_taken and not loading:
            header += 1
        if accepted:
            header = 0

        # bottom of the array: words that are free again
        freed_entries, freed_scales = 0, 0
        if b_valid and step:
            freed_entries, freed_scales = pipe[pipe_at, 3], pipe[pipe_at, 4]
        entries_used -= freed_entries
        scales_used -= freed_scales
        next_loader = loader
        if accepted:
            loader_subset = split
            entries_used += subsets[split, ENTRIES]
            scales_used += subsets[split, SCALES]
            weights_state = _COMPRESSED if subsets[split, COMPRESSED] == 1 else _RAW
            if subsets[split, CODEBOOK_WORDS] > 0:
                next_loader, words_left = _CODEBOOK, subsets[split, CODEBOOK_WORDS]
            elif subsets[split, SCALE_WORDS] > 0:
                next_loader, words_left = _SCALES, subsets[split, SCALE_WORDS]
            else:
                next_loader, words_left = weights_state, subsets[split, WEIGHT_WORDS]
            records_left, level_bits = subsets[split, RECORDS], 0
        elif handed_over:
            next_loader = _IDLE
        elif loader == _COMPRESSED:
            if record:
                level_bits -= record_bits
                records_left -= 1
                if records_left == 0:
                    next_loader, level_bits = _LOADED, 0
            if word_taken:
                level_bits += word_bits
        elif loading and word_taken:
            words_left -= 1
            if words_left == 0:
                weights_state = _COMPRESSED if subsets[loader_subset, COMPRESSED] == 1 else _RAW
                if loader == _CODEBOOK and subsets[loader_subset, SCALE_WORDS] > 0:
                    next_loader, words_left = _SCALES, subsets[loader_subset, SCALE_WORDS]
                elif loader == _RAW:
                    next_loader = _LOADED
                else:
                    next_loader, words_left = weights_state, subsets[loader_subset, WEIGHT_WORDS]

        # array and output register
        if step:
            out_valid = b_valid and pipe[pipe_at, 2] == 1
            if out_valid:
                out_complete = subsets[pipe[pipe_at, 5], COMPLETE] == 1
            pipe[pipe_at, 0] = 1 if issue else 0
            if issue:
                first = vector == 0 and dense_pass == 0
                pipe[pipe_at, 1] = 1 if first and subsets[current, ACCUMULATE] == 1 else 0
                pipe[pipe_at, 2] = 1 if last_vector and last_pass else 0
                frees = fresh_subset if wrf_depth == 1 else end
                pipe[pipe_at, 3] = subsets[current, ENTRIES] if frees else 0
                pipe[pipe_at, 4] = subsets[current, SCALES] if end else 0
                pipe[pipe_at, 5] = current
            pipe_at = (pipe_at + 1) % latency
        elif ofmap_ready:
            out_valid = False

        # partial-sum buffer
        psum_read = stored != 0 and (not offered or psum_taken)
        if psum_read:
            offered = True
        elif psum_taken:
            offered = False
        stored += psum_written - psum_read

        # activation file and sequencer
        held += enter - free
        if advance:
            ahead = 0 if last_vector else ahead + 1 - free
        if go:
            fresh_subset = False
            group += 1
            if last_group:
                group = 0
                dense_pass += 1
                if last_pass:
                    dense_pass = 0
                    vector += 1
                    if last_vector:
                        vector = 0
                        row_left = subsets[current, ROW_PIXELS] if row_left == 1 else row_left - 1
                        pixels_left -= 1
                        if end:
                            active = False
        if handed_over:
            current = loader_subset
            active, fresh_subset = True, True
            group = dense_pass = vector = 0
            row_left, pixels_left = subsets[current, ROW_PIXELS], subsets[current, SUBSET_PIXELS]
        loader = next_loader

        # window loader
        if arriving:
            ring += 1
        if window_taken:
            ring -= 1
            ring_out += 1
        reserved += window_advance - window_taken
        arriving = window_advance
        if window_advance:
            kind = 0
            if walk_vector:
                walk_phase += 1
                kind = 1
                if walk_phase == walk_window:
                    kind, walk_phase = 2, 0
            ring_types[ring_in % 16] = kind
            ring_in += 1
            walk_left -= 1
        if walk_ends:
            walking = False
        if walk_start:
            walking = True
            counters[5] += ops[op_waits, OP_READS] if ops[op_waits, IS_VECTOR] == 1 else subsets[subset_waits, READS]
            walk_vector = ops[op_waits, IS_VECTOR] == 1
            if walk_vector:
                walk_window, walk_phase = ops[op_waits, WINDOW], 0
                walk_left = ops[op_waits, RESULTS] * walk_window
            else:
                walk_left = subsets[subset_waits, WALK]
                subset_waits = -1
        if walk_op_done:
            op_waits = -1
        if window_op_ready and begins[3]:
            op_waits = queue_ops[3, popped[3]]
            popped[3] += 1
        if window_subset_ready and walked != split:
            subset_waits = walked
            walked += 1

        # ofmap storer
        if result_written:
            counters[6] += 1
        result_written = emit
        if done_now:
            completed_at[queue_ops[4, done_count[2]]] = cycle
            counted_at[queue_ops[4, done_count[2]]] = counters
            done_count[2] += 1
            under_way[2] -= 1
        done_now = emit_end
        emit = result_step and ends_window
        emit_end = leaves and place_ends[places_out % 8]
        if result_step and is_raw:
            part = (part + 1) % 4
        if settings_ready:
            result_op = settings_wait
            settings_wait = -1
        if residual_arriving:
            residuals += 1
        if leaves:
            places -= 1
            places_out += 1
            residuals -= has_residual
        residual_arriving = False
        if place_advance:
            residual_arriving = ops[place_op, RESIDUAL] == 1
            counters[5] += residual_arriving
            places += 1
            place_ends[places_in % 8] = place_end
            places_in += 1
            place_left -= 1
            if ops[place_op, IS_VECTOR] == 0:
                if block_left == 0:
                    block_left = subsets[announced[blocks_popped], GROUPS] * ops[place_op, PIXELS]
                block_left -= 1
                if block_left == 0:
                    blocks_popped += 1
            if place_end:
                place_op = -1
        if result_op_ready and begins[4]:
            place_op = queue_ops[4, popped[4]]
            popped[4] += 1
            place_left, settings_wait = ops[place_op, RESULTS], place_op

        # a subset that was accepted is announced
        if accepted:
            if subsets[split, COMPLETE] == 1:
                announced[blocks_pushed] = split
                blocks_pushed += 1
            split += 1

        cycle += 1
        if finished:
            return cycle, counters, counted_at
    return -1, counters, counted_at


@functools.cache
def _inside(count, window, stride, first, extent, fresh):
    """Coordinates in ``range(extent)`` that a walk along one axis reads: ``window`` from ``first`` on for its first
    pixel, and of each of the ``count`` - 1 others, ``stride`` further on, the last ``fresh``."""
    starts = first + stride * np.arange(count)[:, None]
    seen = starts + np.arange(window)
    needed = np.ones(seen.shape, bool)
    needed[1:, : window - fresh] = False
    return int(((seen >= 0) & (seen < extent) & needed).sum())


def _reads(op, groups, rows, columns, tap_row=0, tap_column=0, fresh=None):
    """L1 reads of a walk: its vectors without those in the padding."""
    fresh = columns if fresh is None else fresh
    down = _inside(op["ofmap_rows"], rows, op["stride_y"], tap_row - op["pad_top"], op["ifmap_rows"], rows)
    first = tap_column - op["pad_left"]
    return groups * down * _inside(op["ofmap_columns"], columns, op["stride_x"], first, op["ifmap_columns"], fresh)


def _subset_row(fields, subset_pixels, op, config):
    """Row of the table of subsets for a header's ``fields``."""
    array = config.array
    rows_loaded = fields["entries"] * fields["rows"]
    row = np.zeros(SUBSET_COLUMNS, np.int64)
    compressed = fields.get("compressed", 0)
    if compressed:
        row[RECORDS] = rows_loaded * (array.groups // array.crf_read_ports)
        row[WEIGHT_WORDS] = -(-row[RECORDS] * array.crf_read_ports * array.entry_width // array.stream_width)
    else:
        row[WEIGHT_WORDS] = rows_loaded * raw_row_words(array)
    row[CODEBOOK_WORDS] = fields.get("codewords", 0) * array.codeword_words
    row[SCALE_WORDS] = fields["scales"] * array.scale_words
    row[COMPRESSED], row[ENTRIES], row[SCALES] = compressed, fields["entries"], fields["scales"]
    row[GROUPS], row[PASSES] = fields["out_channel_repeat"], fields["passes"]
    row[VECTORS], row[FRESH] = fields["vectors"], fields["fresh"]
    row[ROW_PIXELS], row[SUBSET_PIXELS] = op["ofmap_columns"], subset_pixels
    fresh_columns = min(op["stride_x"], fields["tap_columns"])
    columns = fields["tap_columns"] + (op["ofmap_columns"] - 1) * fresh_columns
    row[WALK] = op["ofmap_rows"] * columns * fields["tap_rows"] * fields["in_groups"]
    row[READS] = _reads(
        op,
        fields["in_groups"],
        fields["tap_rows"],
        fields["tap_columns"],
        fields["tap_row"],
        fields["tap_column"],
        fresh_columns,
    )
    row[ACCUMULATE], row[COMPLETE] = fields["accumulate"], fields["final"] | fields["raw"]
    row[LAST] = fields["last"]
    return row


#: fields of a ``conv`` that the rows of its subsets depend on.
_STREAM_KEY = ("weights_address", "weight_words", "pixels", "ofmap_rows", "ofmap_columns", "stride_x", "stride_y")
_STREAM_KEY += ("pad_top", "pad_left", "ifmap_rows", "ifmap_columns")


def decode(memory, address, config, base=0):
    """The tables of a program that lies in memory.

    Parameters
    ----------
    memory : uint8, from address ``base`` on. ``address`` : of the first descriptor.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Returns
    -------
    (operations, subsets) : int64 arrays for :func:`simulate`, one row for each descriptor, and for each subset that is
        streamed.
    """
    operations, subsets = [], []
    streams = {}
    bus = config.bus_bytes
    while True:
        data = memory[address - base : address - base + config.descriptor_bytes].tobytes()
        name, values, code = descriptor_fault(data, config)
        if code:
            raise MvqError(f"descriptor at {address:#x}: {code.name.lower()}")
        row = np.zeros(OP_COLUMNS, np.int64)
        row[KIND] = values["opcode"]
        row[[WAIT_LOADS, WAIT_STORES, WAIT_COMPUTES]] = [
            values[f"wait_{kind}"] for kind in ("loads", "stores", "computes")
        ]
        if name in ("load", "store"):
            beats = values["chunk_words"] * config.word_beats
            row[ADDRESS : CHUNKS + 1] = (
                values["memory_address"] // bus,
                values["memory_stride"] // bus,
                beats,
                values["chunks"],
            )
        elif name in ("conv", "vector"):
            row[RESULTS], row[PIXELS] = values["ofmap_groups"] * values["pixels"], values["pixels"]
            row[RESIDUAL], row[IS_VECTOR] = values["residual"], name == "vector"
            if name == "vector":
                row[WINDOW] = values["kernel_rows"] * values["kernel_columns"]
                row[OP_READS] = _reads(values, values["ofmap_groups"], values["kernel_rows"], values["kernel_columns"])
            else:
                row[RAW] = values["raw"]
                row[[WEIGHTS, WEIGHT_BEATS]] = values["weights_address"] // bus, values["weight_words"]
                key = tuple(value for name, value in values.items() if name in _STREAM_KEY)
                if key not in streams:
                    streams[key] = list(_stream(memory, values, config, base))
                subsets += streams[key]
        operations.append(row)
        if name == "end":
            return np.array(operations), np.array(subsets).reshape(-1, SUBSET_COLUMNS)
        address += config.descriptor_bytes


def _stream(memory, op, config, base):
    """Rows of the subsets of one ``conv``."""
    bus = config.bus_bytes
    at = op["weights_address"] - base
    stop = at + op["weight_words"] * bus
    while at < stop:
        size = config.subset_words * bus
        header = int.from_bytes(memory[at : at + size].tobytes(), "little")
        row = _subset_row(unpack_fields(header, config.subset_fields), op["pixels"], op, config)
        yield row
        at += size + int(row[CODEBOOK_WORDS] + row[SCALE_WORDS] + row[WEIGHT_WORDS]) * bus


def simulate(operations, subsets, address, config, memory=None, limit=1 << 40, progress=None):
    """Run the tables of a program.

    Parameters
    ----------
    operations, subsets : from :func:`decode`. ``address`` : of the first descriptor.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`. ``memory`` : :class:`MemoryTiming`.
    limit : cycles after which it is given up. ``progress`` : called with (operations that are complete, all).

    Returns
    -------
    ProgramTiming

    Raises
    ------
    MvqError : the program does not end within ``limit`` cycles.
    """
    memory, array = memory or MemoryTiming(), config.array
    clients = dict(config.read_buffers)
    sizes = (
        address // config.bus_bytes,
        config.descriptor_bytes // config.bus_bytes,
        config.burst_beats,
        config.outstanding,
        clients["weights"],
        clients["loads"],
        config.subset_words,
        array.stream_width,
        array.crf_read_ports * array.entry_width,
        array.wrf_depth,
        array.scale_depth,
        array.arf_depth,
        array.latency,
        config.psum_vectors,
        config.word_beats,
        memory.read_latency,
        memory.write_latency,
        memory.read_addresses,
        memory.read_beats,
    )
    completed = np.full(len(operations), -1, np.int64)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(_run, operations, subsets, sizes, limit, completed)
        while progress and wait([run], _PROGRESS_SECONDS).not_done:
            progress(int(np.count_nonzero(completed >= 0)), len(operations))
    cycles, counters, counted = run.result()
    if cycles < 0:
        raise MvqError(f"the program does not end within {limit} cycles")
    named = dict(zip(COUNTERS, counters.tolist(), strict=True))
    return ProgramTiming(int(cycles), completed, named, counted)


def predict(program, memory=None, progress=None):
    """:class:`ProgramTiming` of a :class:`golden.program.Program`; ``memory`` : :class:`MemoryTiming`; ``progress`` as
    in :func:`simulate`."""
    operations, subsets = decode(program.memory(), program.program_address, program.config, program.base)
    return simulate(operations, subsets, program.program_address, program.config, memory, progress=progress)
