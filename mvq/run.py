"""``mvq run``: a compressed network on the accelerator, image by image, against the golden model."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden import Calibration, Checkpoint, lower
from golden.files import cache_folder
from golden.program import compile_program
from golden.timing import MemoryTiming, predict
from hdl.config import MvqError
from mvq.driver import Driver

__all__ = ["ENGINES", "RunReport", "load_images", "make_engine", "prepare", "run_images"]

#: engine -> what it is.
ENGINES = {
    "golden": "numpy integers, no gateware",
    "cxxrtl": "the gateware compiled to C++, with the memory compiled too",
    "verilator": "the Verilog in Verilator under cocotb, with cocotbext-axi's memory",
    "icarus": "the same in Icarus Verilog",
}


def load_images(path, mean=None, std=None, count=None):
    """Images and labels of an .npz file.

    Parameters
    ----------
    path : file with ``x``: real numbers (N, C, H, W), as the network takes them, or uint8 (N, H, W, C), which become
        (x / 255 - mean) / std; and perhaps ``y``: labels (N,).
    mean, std : for each channel; for uint8 images only. ``count`` : the first so many; all when None.

    Returns
    -------
    (images, labels) : float32 (N, C, H, W); int64 (N,) or None.

    Raises
    ------
    MvqError : the file cannot be read, or does not hold such arrays.
    """
    try:
        with np.load(path) as data:
            arrays = {name: data[name] for name in ("x", "y") if name in data}
    except (OSError, ValueError) as error:
        raise MvqError(f"{path}: cannot be read as .npz ({error})") from error
    if "x" not in arrays or arrays["x"].ndim != 4:
        raise MvqError(
            f"{path}: must hold images 'x' of four dimensions; it holds {', '.join(arrays) or 'neither x nor y'}"
        )
    images, labels = arrays["x"][:count], arrays.get("y")
    if images.dtype == np.uint8:
        images = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != images.shape[1]:
                raise MvqError(f"--{name} has {len(values)} values, but the images have {images.shape[1]} channels")
        shape = (1, -1, 1, 1)
        images = images - np.reshape([0.0] * images.shape[1] if mean is None else mean, shape)
        images = images / np.reshape([1.0] * images.shape[1] if std is None else std, shape)
    elif mean is not None or std is not None:
        raise MvqError(
            f"{path}: holds {images.dtype} images, which are taken as they are; --mean and --std are for uint8"
        )
    if labels is not None:
        labels = labels[:count].astype(np.int64)
        if labels.shape != (len(images),):
            raise MvqError(f"{path}: has {len(images)} images, but labels of shape {labels.shape}")
    return images.astype(np.float32), labels


def prepare(checkpoint, config, calibration=None, keep=None):
    """Program of a checkpoint's folder for ``config``; returns (lowered network, program).

    Parameters
    ----------
    calibration : file; ``calibration.json`` in the checkpoint's folder when None. ``keep`` : see
        :func:`golden.program.compile_program`.

    Raises
    ------
    MvqError : checkpoint or calibration cannot be used, or a layer cannot run.
    """
    folder = Path(checkpoint)
    lowered = lower(Checkpoint.load(folder), Calibration.load(calibration or folder / "calibration.json"), config.array)
    return lowered, compile_program(lowered, config, keep=keep)


def make_engine(name, config, build_dir=None, memory=None, progress=None):
    """(engine, the memory's timing); ``golden`` has none.

    Parameters
    ----------
    name : key of :data:`ENGINES`. ``config`: :class:`~hdl.accelerator_config.AcceleratorConfig`.
    build_dir : where Verilator and Icarus compile; a cache folder when None.
    memory : :class:`~golden.timing.MemoryTiming` that ``cxxrtl`` imitates.
    """
    if name not in ENGINES:
        raise MvqError(f"--engine = {name!r}: must be one of {', '.join(ENGINES)}")
    if name == "golden":
        return None, None
    if name == "cxxrtl":
        from sim.accelerator import CxxrtlAccelerator

        memory = memory or MemoryTiming()
        return CxxrtlAccelerator(config, memory, progress=progress), memory
    from cocotb_tests.accelerator_simulation import AXI_RAM, AcceleratorSimulation

    folder = Path(build_dir) if build_dir else cache_folder("accelerator") / config.hash
    engine = AcceleratorSimulation(config, folder, name)
    engine.build()
    return engine, AXI_RAM


@dataclass
class RunReport:
    """What :func:`run_images` found.

    Attributes
    ----------
    classes : of each image. ``labels`` : or None.
    cycles : of each image on the engine; ``predicted`` : the model's, the same for all images. None for golden.
    compared : names of the nodes whose values were compared with golden's for every image.
    registers : of the last image. ``seconds`` : on the engine, all images.
    """

    classes: list
    labels: list | None
    cycles: list | None
    predicted: int | None
    compared: list
    registers: dict | None
    seconds: float

    @property
    def right(self):
        """Images whose class is their label; None without labels."""
        return None if self.labels is None else sum(a == b for a, b in zip(self.classes, self.labels, strict=True))

    def to_dict(self):
        """JSON-ready form."""
        return {**vars(self), "right": self.right}


def run_images(lowered, program, images, labels, engine, timing, progress=None):
    """Run every image and compare with golden: the result, each tensor that the program stores, and the cycles.

    Parameters
    ----------
    lowered, program : from :func:`prepare`. ``images`` : float32 (N, C, H, W). ``labels`` : int (N,) or None.
    engine, timing : from :func:`make_engine`. ``progress`` : called with the number of images done.

    Returns
    -------
    RunReport

    Raises
    ------
    MismatchError : a value differs from golden's. MvqError : the cycles differ from the model's.
    RunFailedError : the accelerator reports an error.
    """
    network = lowered.network
    predicted = None if engine is None else predict(program, timing).cycles
    driver = None if engine is None else Driver(program, engine)
    report = RunReport(
        [], None if labels is None else labels.tolist(), None if engine is None else [], predicted, [], {}, 0
    )
    for number, image in enumerate(images):
        x = network.quantise_input(image[None])
        values = network.run(x)
        output = values[program.output]
        if driver:
            started = time.perf_counter()
            _, registers = driver.run(x[0])
            report.seconds += time.perf_counter() - started
            report.compared = program.compare(driver.memory, {name: value[0] for name, value in values.items()})
            report.cycles.append(registers["cycles"])
            report.registers = registers
            if registers["cycles"] != predicted:
                raise MvqError(
                    f"image {number} took {registers['cycles']} cycles on the accelerator, but {predicted} in the model"
                )
        report.classes.append(int(network.logits(output).reshape(-1).argmax()))
        if progress:
            progress(number + 1)
    return report
