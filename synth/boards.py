"""Boards of amaranth-boards, and what their FPGAs hold."""

import difflib
import importlib
import pkgutil
import re
from dataclasses import dataclass

from hdl.config import MvqError

__all__ = ["DEVICES", "FAMILIES", "RESOURCES", "Board", "Device", "Family", "boards", "find_board"]

#: what is counted, in the order of tables.
RESOURCES = ("LUT", "FF", "DSP", "BRAM")


@dataclass(frozen=True)
class Family:
    """FPGAs with the same cells.

    Attributes
    ----------
    name : of the makers. ``synth`` : Yosys command. ``options`` : of it; ``keep_modules`` : those that keep the
        boundaries of modules.
    cells : regular expression of a cell -> (resource, units of it); a cell of resource None takes none of them.
    placed : resource -> what nextpnr calls it. ``tools`` : place and route, packing. Empty where there is no nextpnr.
    """

    name: str
    synth: str
    options: str
    keep_modules: str
    cells: dict
    placed: dict
    tools: tuple[str, ...] = ()


#: cells that Yosys leaves in every netlist, which are no hardware.
_NOTHING = {r"\$scopeinfo": (None, 0)}

FAMILIES = {
    "ecp5": Family(
        "Lattice ECP5",
        "synth_ecp5",
        "",
        "-noflatten",
        {
            **_NOTHING,
            "LUT4": ("LUT", 1),
            "CCU2C": ("LUT", 2),
            "TRELLIS_DPR16X4": ("LUT", 6),  # four hold 16 bits each, two more write them
            "TRELLIS_FF": ("FF", 1),
            "MULT18X18D": ("DSP", 1),
            "DP16KD|PDPW16KD": ("BRAM", 1),
            "PFUMX|L6MUX21|TRELLIS_IO|OFS1P3.X|IFS1P3.X|GSR|SGSR|DCCA|IB|OB|OBZ|BB": (None, 0),
        },
        {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "DSP": "MULT18X18D", "BRAM": "DP16KD"},
        ("nextpnr-ecp5", "ecppack"),
    ),
    "ice40": Family(
        "Lattice iCE40",
        "synth_ice40",
        "-dsp",
        "-noflatten",
        {
            **_NOTHING,
            "SB_LUT4": ("LUT", 1),
            "SB_DFF[A-Z]*": ("FF", 1),
            "SB_MAC16": ("DSP", 1),
            "SB_RAM40_4K[A-Z]*": ("BRAM", 1),
            "SB_CARRY|SB_IO|SB_GB|SB_GB_IO": (None, 0),  # a carry lies in the cell of a LUT
        },
        {"LUT": "ICESTORM_LC", "DSP": "ICESTORM_DSP", "BRAM": "ICESTORM_RAM"},
        ("nextpnr-ice40", "icepack"),
    ),
    "xilinx7": Family(
        "AMD 7 series",
        "synth_xilinx -family xc7",
        "",
        "",
        {
            **_NOTHING,
            "LUT[1-6]|INV|RAM(32|64|128|256)X1S|SRL16E|SRLC32E": ("LUT", 1),
            "RAM(32|64)X1D": ("LUT", 2),
            "RAM128X1D|RAM(32|64)M": ("LUT", 4),
            "FD[RSCP]E(_1)?": ("FF", 1),
            "DSP48E1": ("DSP", 1),
            "RAMB18E1": ("BRAM", 0.5),
            "RAMB36E1": ("BRAM", 1),
            "MUXF[78]|CARRY4|IBUF|OBUF|BUFG": (None, 0),
        },
        {},
    ),
}


@dataclass(frozen=True)
class Device:
    """An FPGA: its :class:`Family` by key, and how much it has of each of :data:`RESOURCES` (BRAM of 36 kbit on the
    7 series, 18 on ECP5, 4 on iCE40)."""

    family: str
    luts: int
    ffs: int
    dsps: int
    brams: int

    @property
    def available(self):
        """Resource -> units."""
        return dict(zip(RESOURCES, (self.luts, self.ffs, self.dsps, self.brams), strict=True))


#: device, without package, speed and grade -> :class:`Device`, from the makers' data sheets.
DEVICES = {
    "lfe5u-12f": Device("ecp5", 12_144, 12_144, 28, 32),
    **{f"lfe5{kind}-25f": Device("ecp5", 24_288, 24_288, 28, 56) for kind in ("u", "um", "um5g")},
    **{f"lfe5{kind}-45f": Device("ecp5", 43_848, 43_848, 72, 108) for kind in ("u", "um", "um5g")},
    **{f"lfe5{kind}-85f": Device("ecp5", 83_640, 83_640, 156, 208) for kind in ("u", "um", "um5g")},
    **{f"ice40{kind}1k": Device("ice40", 1_280, 1_280, 0, 16) for kind in ("hx", "lp")},
    "ice40hx4k": Device("ice40", 3_520, 3_520, 0, 20),
    **{f"ice40{kind}8k": Device("ice40", 7_680, 7_680, 0, 32) for kind in ("hx", "lp")},
    "ice40up5k": Device("ice40", 5_280, 5_280, 8, 30),
    "xc7s25": Device("xilinx7", 14_600, 29_200, 80, 45),
    "xc7s50": Device("xilinx7", 32_600, 65_200, 120, 75),
    "xc7a15t": Device("xilinx7", 10_400, 20_800, 45, 25),
    "xc7a35t": Device("xilinx7", 20_800, 41_600, 90, 50),
    "xc7a50t": Device("xilinx7", 32_600, 65_200, 120, 75),
    "xc7a100t": Device("xilinx7", 63_400, 126_800, 240, 135),
    "xc7a200t": Device("xilinx7", 134_600, 269_200, 740, 365),
    "xc7k325t": Device("xilinx7", 203_800, 407_600, 840, 445),
    "xc7z007s": Device("xilinx7", 14_400, 28_800, 66, 50),
    "xc7z010": Device("xilinx7", 17_600, 35_200, 80, 60),
    "xc7z020": Device("xilinx7", 53_200, 106_400, 220, 140),
}


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes
    ----------
    name : as ``--board`` takes it. ``platform`` : class of amaranth-boards. ``device_name`` : key of :data:`DEVICES`.
    """

    name: str
    platform: type
    device_name: str

    @property
    def device(self):
        """Its :class:`Device`."""
        return DEVICES[self.device_name]

    @property
    def family(self):
        """Its :class:`Family`."""
        return FAMILIES[self.device.family]

    @property
    def has_uart(self):
        """True when the board has a UART to a computer."""
        return any(resource.name == "uart" for resource in self.platform.resources)

    @property
    def clock_mhz(self):
        """Frequency of its clock."""
        clock = next(item for item in self.platform.resources if item.name == self.platform.default_clk)
        return clock.clock.frequency / 1e6


def _device_name(platform):
    """Key of :data:`DEVICES`, or None: makers write grades behind the device's name, as in xc7a35ti."""
    name = platform.device.lower()
    return next((name[:end] for end in range(len(name), 0, -1) if name[:end] in DEVICES), None)


def boards():
    """Name -> :class:`Board` of all boards of amaranth-boards whose FPGA is in :data:`DEVICES`.

    Raises
    ------
    MvqError : amaranth-boards is not installed.
    """
    try:
        import amaranth_boards
    except ImportError:
        raise MvqError("amaranth-boards is not installed: `pip install amaranth-boards`") from None
    found = {}
    for entry in pkgutil.iter_modules(amaranth_boards.__path__):
        if entry.ispkg:
            continue
        module = importlib.import_module(f"amaranth_boards.{entry.name}")
        for class_name, platform in vars(module).items():
            match = re.fullmatch(r"([A-Za-z0-9]\w*?)_?Platform", class_name)
            if match and platform.__module__ == module.__name__ and isinstance(getattr(platform, "device", None), str):
                device = _device_name(platform)
                if device:
                    name = match[1].lower().replace("_", "-")
                    found[name] = Board(name, platform, device)
    return found


def find_board(name):
    """The :class:`Board` ``name``.

    Raises
    ------
    MvqError : there is no such board; gives the nearest name.
    """
    known = boards()
    if name not in known:
        nearest = difflib.get_close_matches(str(name).lower().replace("_", "-"), known, n=1, cutoff=0)[0]
        raise MvqError(
            f"--board = {name!r}: is none of the {len(known)} boards that amaranth-boards has for FPGAs known here; "
            f"the nearest name is {nearest}"
        )
    return known[name]
