"""Reports side by side: what is joined, what is refused, and the page, opened in Chromium."""

import json
import shutil
from pathlib import Path

import pytest

from golden.estimate import estimate
from golden.networks import NETWORKS, Network
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import MvqError, preset
from mvq.compare import area_beside_paper, compare, csv_table, designs_table, draw, efficiency_beside_paper
from mvq.compare import load_reports as load_paths
from mvq.page import write_page
from mvq.pareto import front, scaled
from mvq.reports import describe

#: what a report could hold to break a page.
EVIL = "</script><img src=x onerror='window.broken=1'>{{7*7}}$&\"<b>"


def area_row(config, area, reference=None, **more):
    return {
        "variant": config.variant,
        "rows": config.rows,
        "columns": config.columns,
        "unit": None,
        "blocks": {"array": area - 1000.0, "control": 1000.0},
        "total_um2": area,
        "gate_equivalents": area,
        "sequential_share": 0.5,
        "vs_ews": reference and area / reference - 1,
        "config": config.to_dict(),
        "config_hash": config.hash,
        **more,
    }


def report(rows, kind="mvq-area", **changes):
    return {
        "format": kind,
        "format_version": 1,
        "tools": {"pyosys": "0.70"},
        "liberty": {"name": "cells", "corner": "1.1 V 25 C", "sha256": "0" * 64},
        "policy": {"hierarchy": "kept", "register_files": "clock_gated"},
        "rows": rows,
        **changes,
    }


def bare(config, **numbers):
    """A row of `mvq timing` or `mvq power`."""
    names = ("variant", "rows", "columns")
    return {**{name: getattr(config, name) for name in names}, "config": config.to_dict(), **numbers}


def estimated(config, network="resnet18"):
    """An estimate of some layers, under the name of a whole network."""
    shapes = Network(network, NETWORKS["resnet18"]().layers[1:4])
    return estimate(shapes, AcceleratorConfig(array=config.replace(gating_counter=True))).to_dict()


EWS, CMS = preset("ews", 16), preset("ews-cms", 16)
LIBRARY = {"name": "others", "corner": "", "sha256": "1" * 64}
AREAS = [area_row(EWS, 400_000.0, 400_000.0), area_row(CMS, 500_000.0, 400_000.0)]


@pytest.fixture
def load(tmp_path):
    """Function of reports by name that writes them and loads them."""

    def write(**contents):
        paths = []
        for name, content in contents.items():
            paths.append(tmp_path / f"{name}.json")
            paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
        return load_paths(paths)

    return write


def values(section, design):
    return {measure.heading: value for measure, value in section.designs[design].values.items()}


def test_rows_of_a_configuration_are_joined(load):
    other = preset("ews-cms", 16, codewords=64)
    [section] = compare(
        load(
            area=report(AREAS),
            timing=report([bare(CMS, fmax_mhz=310.0, new_number=3)], "mvq-timing", policy={"clock": 300}),
            energy=report([bare(CMS, network="resnet18", tops_per_watt=2.5)], "mvq-energy"),
            first=estimated(EWS),
            second=estimated(CMS),
            third=estimated(other),
        )
    )
    assert [design.name for design in section.designs] == ["ews-16x16", "ews-cms-16x16", "ews-cms-16x16, codewords=64"]
    found = values(section, 1)
    assert found["area, um2"] == 500_000
    assert found["vs EWS"] == 0.25
    assert found["Fmax, MHz"] == 310
    assert found["new number"] == 3
    assert found["resnet18 TOPS/W"] == 2.5
    assert found["resnet18 cycles"] == estimated(CMS)["cycles"]
    assert set(values(section, 2)) == {"resnet18 cycles", "resnet18 energy, M", "resnet18 on chip, M"}
    measures, designs = section.points("resnet18")
    assert [measure.name for measure in measures] == ["area, um2", "cycles", "energy, M"]
    assert [design.name for design in designs] == ["ews-16x16", "ews-cms-16x16"]


def test_rows_without_a_configuration(load):
    """Found by hash: in another report, or as a preset's."""
    other = preset("ews-cms", 16, codewords=64)
    rows = [
        {**bare(config, fmax_mhz=300.0, limited_by="array", tile_rows=16), "config_hash": config.hash, "config": None}
        for config in (CMS, other)
    ]
    timing = report(rows, "mvq-timing")
    [section] = compare(load(timing=timing, area=report([area_row(other, 1e5)])))
    assert values(section, 0) == {"Fmax, MHz": 300, "limited by": "array"}
    assert values(section, 1) == {"Fmax, MHz": 300, "limited by": "array", "area, um2": 1e5}
    assert designs_table(section).texts()[0] == ["ews-cms-16x16", "300", "array", ""]
    with pytest.raises(MvqError, match="timing has a row of ews-cms-16x16 without its configuration"):
        load(timing=timing)


def test_power_of_a_core(load):
    power = {"config": CMS.to_dict(), "power": {"array": 0.01, "control": 0.002}, "clock_mhz": 300.0}
    [section] = compare(load(area=report(AREAS), power={**report([], "mvq-power"), **power}))
    assert values(section, 1)["power, mW"] == pytest.approx(12)
    assert values(section, 1)["clock, MHz"] == 300


def test_energy_leaves_dram_out_on_chip(load):
    one = estimated(CMS)
    [section] = compare(load(only=one))
    found, costs = values(section, 0), one["costs"]
    on_chip = sum(costs[level] * count for level, count in one["levels"].items() if level != "dram")
    on_chip += one["traffic"]["macs"]
    assert found["resnet18 on chip, M"] == pytest.approx(on_chip / 1e6)
    assert found["resnet18 energy, M"] == pytest.approx((on_chip + costs["dram"] * one["levels"]["dram"]) / 1e6)
    assert section.title is None


def test_two_reports_of_the_same_designs(load):
    [section] = compare(load(a=report(AREAS), b=report([area_row(CMS, 450_000.0)], tools={"pyosys": "0.71"})))
    table = designs_table(section)
    assert [column.heading for column in table.columns] == ["design", "a area, um2", "a vs EWS", "b area, um2"]
    assert table.texts()[1] == ["ews-cms-16x16", "500,000", "+25.0%", "450,000"]
    assert section.notes == ["the reports have different tools: a: pyosys 0.70; b: pyosys 0.71"]


def test_memories_are_named(load):
    memories = {"others": "sram", "codebook": [], "srams": {"macro": "a data sheet"}}
    unit = [{**area_row(CMS, 9e5), "unit": "accelerator"}]
    [section] = compare(load(a=report(AREAS), b=report(unit, memories=memories), c=estimated(CMS)))
    expected = "a: None; b: others: sram, srams: {'macro': 'a data sheet'}"
    assert section.notes == [f"the reports have different memories: {expected}"]
    assert [design.name for design in section.designs][1:] == ["ews-cms-16x16", "ews-cms-16x16, accelerator"]
    assert values(section, 1)["resnet18 cycles"] == values(section, 2)["resnet18 cycles"]


def test_change_from_the_first_report(load):
    rows = [area_row(EWS, 400_000.0, 400_000.0), area_row(CMS, 450_000.0, 400_000.0)]
    [section] = compare(load(a=report(AREAS), b=report(rows)))
    table = designs_table(section)
    assert table.columns[-1].heading == "b vs a"
    assert [row[-1] for row in table.texts()] == ["+0.0%", "-10.0%"]


def test_committed_comparison():
    """The reports of benchmarks/comparison.py: every design has its area, Fmax and TOPS/W."""
    folder = Path(__file__).parents[2] / "docs" / "results"
    [section] = compare(load_paths([folder / f"{name}.json" for name in ("area", "timing", "energy")]))
    assert len(section.designs) == 18
    for design in section.designs:
        assert {"area, um2", "Fmax, MHz", "resnet18 TOPS/W"} <= {measure.heading for measure in design.values}
    assert len(efficiency_beside_paper(section)[0].rows) > 0


def test_two_libraries_are_refused(load):
    reports = load(a=report(AREAS), b=report(AREAS, liberty=LIBRARY), c=estimated(EWS))
    with pytest.raises(MvqError, match=r"different libraries \(a: cells .*; b: others.*\); give --separate"):
        compare(reports)
    first, second = compare(reports, separate=True)
    assert first.title.startswith("cells (1.1 V 25 C), 0000")
    assert second.title.startswith("others, 1111")
    assert [[one.label for one in section.reports] for section in (first, second)] == [["a", "c"], ["b", "c"]]
    assert [row[0] for row in csv_table([first, second]).rows] == [first.library] * 2 + [second.library] * 2


def test_two_policies_are_refused(load):
    policy = {"hierarchy": "kept", "register_files": "flip_flop"}
    reports = load(a=report(AREAS), b=report(AREAS, policy=policy))
    expected = r"policies \(a: register_files = clock_gated; b: register_files = flip_flop\)"
    with pytest.raises(MvqError, match=expected):
        compare(reports)
    titles = [section.title for section in compare(reports, separate=True)]
    assert [title.partition("; ")[2] for title in titles] == [
        "register_files = clock_gated",
        "register_files = flip_flop",
    ]


def test_a_timing_of_another_library_has_a_section_of_its_own(load):
    reports = load(a=report(AREAS), t=report([bare(CMS, fmax_mhz=1.0)], "mvq-timing", liberty=LIBRARY))
    with pytest.raises(MvqError, match="different libraries"):
        compare(reports)
    assert [[one.label for one in section.reports] for section in compare(reports, separate=True)] == [["a"], ["t"]]


def test_reports_that_contradict_each_other(load):
    more = estimated(CMS)
    more["cycles"] += 1
    with pytest.raises(MvqError, match="one and two both have resnet18 cycles of ews-cms-16x16 and differ"):
        compare(load(one=estimated(CMS), two=more))


def test_the_same_report_twice(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(report(AREAS)))
    with pytest.raises(MvqError, match=r"a\.json is given twice"):
        load_paths([path, path])


def test_beside_the_paper(load):
    configs = {name: preset(name, 64) for name in ("ws", "ews", "ews-cms")}
    areas = {"ws": 2e6, "ews": 5e6, "ews-cms": 2.5e6}
    power = {"ws": 2.0, "ews": 3.0, "ews-cms": 7.5}
    estimates = {name.replace("-", "_"): estimated(config) for name, config in configs.items()}
    [section] = compare(
        load(
            area=report([area_row(config, areas[name], 5e6) for name, config in configs.items()]),
            energy=report(
                [
                    bare(config, network=network, tops_per_watt=power[name])
                    for name, config in configs.items()
                    for network in ("resnet18", "vgg16")
                ],
                "mvq-energy",
            ),
            **estimates,
        )
    )
    last = area_beside_paper(section).texts()[-1]
    assert last == ["ews-cms-64x64", "2.129", "2.500", "1.17", "-49.7%", "-50.0%"]
    fig19, fig20 = efficiency_beside_paper(section)
    row = fig19.rows[-1]
    assert row[:6] == ["ResNet-18", "ews-cms-64x64", 6.9, 7.5, pytest.approx(6.9 / 2.9), 2.5]
    on_chip = [values(section, place)["resnet18 on chip, M"] for place in range(3)]
    assert row[6] == pytest.approx(on_chip[1] / on_chip[2])
    assert fig20.rows[-1] == ["VGG-16", "ews-cms-64x64", 4.3, 3.75]
    assert [column.heading for column in fig20.columns][-1] == "ours, over WS"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a report of `mvq area`, `mvq timing`"),
        ('{"format": "mvq-area", "format_version": 9}', "format version 9; this mvq reads up to 1"),
        (report([{"variant": "ews"}]), r"damaged: rows\.0\.rows: Field required"),
        (report(AREAS, liberty=None), r"damaged: liberty"),
        (report([area_row(EWS, float("nan"))]), r"damaged: rows\.0\.blocks\.array: Input should be a finite number"),
        (report([{**AREAS[0], "config": {"rows": 3.5}}]), "damaged: rows = 3.5: must be an integer"),
        (report([{**AREAS[0], "config": {"knob": 1}}]), "damaged: .*'knob'"),
        ({**estimated(EWS), "levels": {"l9": 1}}, "damaged: 'l9'"),
    ],
)
def test_bad_report(load, content, message):
    with pytest.raises(MvqError, match=message):
        load(bad=content)


def test_missing_report(tmp_path):
    with pytest.raises(MvqError, match=r"none\.json cannot be read"):
        load_paths([tmp_path / "none.json"])


def test_names_tell_what_differs():
    assert describe(preset("ews-c", 32).to_dict()) == "ews-c-32x32"
    assert describe(preset("ews-cms", 32, codewords=64, n=2, m=8).to_dict()) == "ews-cms-32x32, n=2, m=8, codewords=64"
    assert describe(preset("ews", 16, style="structural", gating_counter=True, tile_rows=4).to_dict()).endswith(
        "16, tile_rows=4"
    )


def test_front():
    assert front([(1, 5), (2, 2), (5, 1), (2, 3), (2, 2), (6, 6)]) == [0, 1, 2, 4]
    assert scaled("area, um2", [20_000.0, 1e6]) == ("area, mm2", [0.02, 1.0])
    assert scaled("cycles", [5e6]) == ("cycles, M", [5.0])
    assert scaled("cycles", [7000]) == ("cycles", [7000])


def test_pictures(load, tmp_path):
    sections = compare(load(a=report(AREAS), b=estimated(EWS, "a/$b"), c=estimated(CMS, "a/$b")))
    paths = draw(sections, tmp_path / "pictures")
    assert [path.name for path in paths] == ["area.png", "pareto-a__b.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


# ---- in a browser
# --------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser():
    """Chromium without a window."""
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: `apt-get install chromium chromium-driver`")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


#: what the pointer's tooltip says, which is inside a shadow tree.
TIP = """
const inside = node => [...node.querySelectorAll('*')].flatMap(
    one => [one, ...(one.shadowRoot ? inside(one.shadowRoot) : [])]);
const found = inside(document).filter(one => one.classList.contains('bk-tooltip-row-value'));
return found.map(one => one.innerText).join(' | ');
"""


def complaints(window):
    """Warnings and errors of the console."""
    return [entry for entry in window.get_log("browser") if entry["level"] not in ("INFO", "DEBUG")]


def requests(window):
    """Addresses that were asked for, those inside the page left out."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [address for address in sent if not address.startswith(("data:", "blob:"))]


def test_page_in_chromium(browser, load, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    rows = [{**row, "blocks": {EVIL: row["total_um2"]}} for row in AREAS]
    liberty = {"name": EVIL, "corner": EVIL, "sha256": "0" * 64}
    reports = load(
        a=report(rows, liberty=liberty, policy={EVIL: EVIL}, tools={EVIL: EVIL}),
        b=estimated(EWS, EVIL),
        c=estimated(CMS, EVIL),
    )
    page = write_page(compare(reports), reports, tmp_path / "page.html")
    browser.get(page.as_uri())

    wait = WebDriverWait(browser, 30)
    wait.until(lambda window: window.execute_script("return Bokeh.documents[0].is_idle"))

    def order():
        rows = "document.querySelector('table').tBodies[0].rows"
        return browser.execute_script(f"return [...{rows}].map(row => row.cells[0].innerText)")

    heads = browser.find_element(By.CSS_SELECTOR, "table").find_elements(By.TAG_NAME, "th")
    area = next(head for head in heads if head.text.startswith("area, um2"))
    assert order() == ["ews-16x16", "ews-cms-16x16"]
    for expected in (["ews-cms-16x16", "ews-16x16"], ["ews-16x16", "ews-cms-16x16"]):
        area.click()
        wait.until(lambda _, expected=expected: order() == expected)

    plots = browser.find_elements(By.CSS_SELECTOR, ".plots .bk-Figure")
    assert len(plots) == 4  # one size; area, cycles, energy by pairs
    assert all(min(plot.size.values()) > 200 for plot in plots)
    ActionChains(browser).move_to_element(plots[0]).move_by_offset(50, 0).perform()
    tip = wait.until(lambda window: window.execute_script(TIP))
    assert EVIL in tip
    assert "mm2" in tip
    assert EVIL in browser.execute_script("return document.body.innerText")
    assert browser.execute_script("return window.broken") is None
    assert complaints(browser) == []
    assert requests(browser) == [page.as_uri()]


def test_the_browser_notices(browser, tmp_path):
    """The checks above see an error and a request."""
    page = tmp_path / "bad.html"
    page.write_text("<script>missing()</script><script src='http://127.0.0.1:9/x.js'></script>")
    browser.get(page.as_uri())
    assert any("missing is not defined" in entry["message"] for entry in complaints(browser))
    assert "http://127.0.0.1:9/x.js" in requests(browser)


def test_page_needs_its_files():
    """What the page is made of is part of the package."""
    web = Path(__file__).parents[2] / "mvq" / "web"
    assert {path.name for path in web.iterdir()} == {"compare.css", "compare.html", "sortable.auto.min.js"}
