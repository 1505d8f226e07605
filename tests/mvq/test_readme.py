"""The numbers in the README and in docs/ are those of the committed results."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_agree_with_the_results():
    generator = _generator()
    assert generator.missing() == []
    for page in generator.PAGES:
        text = page.read_text()
        assert generator.fill(text) == text, f"{page.name}: run python docs/generate.py"


def test_a_changed_number_is_noticed():
    text = (ROOT / "README.md").read_text()
    report = json.loads((ROOT / "docs" / "results" / "area.json").read_text())
    number = f"{report['rows'][0]['total_um2']:,.0f}"
    assert number in text
    assert _generator().fill(text.replace(number, "1")) == text


def test_linked_files_exist():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
