"""A network for a board: memory contents, where an image goes, and integer scores of the classes."""

import json
import math

import numpy as np

from hdl.board.contents import MULTIPLIER_WIDTH, BoardContents, ClassScore
from hdl.board.demo import BoardDemo
from hdl.board.host import ANSWER_BYTES
from hdl.config import MvqError
from hdl.control.register_map import OFFSETS, ErrorCode
from mvq.driver import Driver
from sim.cxxrtl import gateware_identity
from sim.uart_bench import UartBench

__all__ = ["board_class", "board_contents", "empty_contents", "simulate_board"]

#: classes that fit the byte of an answer, whose highest value says that the run failed.
_MOST_CLASSES = 255


def board_contents(lowered, program):
    """:class:`~hdl.board.contents.BoardContents` of a network.

    Parameters
    ----------
    lowered, program : from :func:`mvq.run.prepare`; the program at address 0.

    Raises
    ------
    MvqError : the network does not end in raw sums of up to 255 classes.
    """
    memory = program.memory()
    start, source = _placement(program)
    return BoardContents(
        memory=memory.tobytes(),
        memory_bytes=1 << (len(memory) - 1).bit_length(),
        settings=tuple((OFFSETS[name], value) for name, value in Driver(program, None).settings().items()),
        image_bytes=math.prod(program.input_layout.shape),
        placement_address=start,
        placement=tuple(None if index < 0 else int(index) for index in source),
        classes=_classes(lowered.network, program),
    )


def empty_contents(config):
    """Contents of a board without a network: a memory of 32 KB with nothing in it, for place and route."""
    size = 1 << 15
    settings = {"program_length": size // config.descriptor_bytes, "memory_limit": size, "output_limit": size}
    return BoardContents(
        memory=b"",
        memory_bytes=size,
        settings=tuple((OFFSETS[name], value) for name, value in settings.items()),
        image_bytes=64,
        placement_address=0,
        placement=tuple(range(64)),
        classes=tuple(ClassScore(word, 1, 0) for word in range(10)),
    )


def _placement(program):
    """(address of the network's input, index of the image's byte for each byte from there on, or -1).

    Images whose bytes are the digits of their own index tell which goes where.
    """
    size = math.prod(program.input_layout.shape)
    place = program.stored[program.input]
    index, digit, base = np.full(place.size, -1), 1, 100
    found = np.zeros(place.size, int)
    while digit <= size:
        memory = np.zeros(program.size, np.uint8)
        digits = (np.arange(size) // digit % base + 1).astype(np.int8)  # 0 stays for what no byte reaches
        program.write_input(memory, digits.reshape(program.input_layout.shape))
        region = memory[place.address - program.base :][: place.size].astype(int)
        index = np.where(region > 0, found + (region - 1) * digit, -1)
        found, digit = np.maximum(index, 0), digit * base
    return place.address, index


def _classes(network, program):
    graph = network.graph
    node = graph[program.output]
    layer = network.layers.get(node.name)
    shape = graph.shapes()[node.name]
    if layer is None or not layer.raw or node.activation != "none" or math.prod(shape) != shape[0]:
        raise MvqError(
            f"the network's output {node.name!r} cannot be classified on a board: it must be the sums of a linear "
            "layer without activation"
        )
    if shape[0] > _MOST_CLASSES:
        raise MvqError(f"the network has {shape[0]} classes, but a board's answer has room for {_MOST_CLASSES}")
    numbers = np.arange(program.size // 4, dtype="<i4").view(np.uint8)
    words = program.read(numbers).reshape(-1)  # each sum reads as the number of its own word
    shift = MULTIPLIER_WIDTH - math.frexp(np.abs(layer.psum_scale).max())[1]
    return tuple(
        ClassScore(int(word), _magnitude(round(math.ldexp(scale, shift))), round(math.ldexp(bias, shift)))
        for word, scale, bias in zip(words, layer.psum_scale, layer.bias, strict=True)
    )


def _magnitude(multiplier):
    """``multiplier`` within its bits: rounding may have reached the next power of two."""
    most = (1 << MULTIPLIER_WIDTH) - 1
    return min(max(multiplier, -most), most)


def board_class(contents, psums):
    """The class that the board gives for ``psums`` (K,): the first of the highest scores."""
    scores = [int(psum) * item.multiplier + item.offset for psum, item in zip(psums, contents.classes, strict=True)]
    return scores.index(max(scores))


def simulate_board(config, contents, network, output, images, divisor, progress=None):
    """Send images over the UART of the compiled system, and compare the classes with golden's.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`. ``contents`` : of :func:`board_contents`.
    network : :class:`golden.network.IntegerNetwork`. ``output`` : name of its output node.
    images : real (N, C, H, W). ``divisor`` : clock cycles of a bit.
    progress : called with the number of images done.

    Returns
    -------
    (classes, cycles) : of each image, the cycles as the answer has them, which are the run's alone.

    Raises
    ------
    MvqError : a class differs from that of golden's logits, or the accelerator reports an error.
    """
    identity = json.dumps([gateware_identity(config), repr(contents), divisor])
    bench = UartBench(BoardDemo(config, contents, divisor), divisor, identity=identity)
    classes, cycles = [], []
    for number, image in enumerate(network.quantise_input(images)):
        expected = int(network.logits(network.run(image[None], keep=False)[output]).reshape(-1).argmax())
        answer = bench.exchange(image.tobytes(), ANSWER_BYTES)
        found, error = answer[0], ErrorCode(answer[1])
        if error != ErrorCode.NONE:
            raise MvqError(f"image {number}: the accelerator stopped with {error.name.lower()}")
        if found != expected:
            raise MvqError(f"image {number}: the board says class {found}, but golden {expected}")
        classes.append(found)
        cycles.append(int.from_bytes(answer[2:], "little"))
        if progress:
            progress(number + 1)
    return classes, cycles
