"""The shape of the house: imports, file lengths, a light command line, a surface that changes on purpose."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gwm.cli.main import app

ROOT = Path(__file__).parent.parent
LAYERS = ("cli", "pipelines", "core", "shards")
MAY_IMPORT = {
    "cli": {"cli", "pipelines", "core", "shards"},
    "pipelines": {"pipelines", "core", "shards"},
    "core": {"core"},
    "shards": {"shards"},
}
FILES = [p for layer in (*LAYERS, "tests", "benchmarks") for p in (ROOT / layer).rglob("*.py")]
HEAVY = ("torch", "numpy", "cv2", "av", "pyarrow")
OPTIONS = Path(__file__).parent / "options.json"


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_one_way(layer):
    for path in (ROOT / layer).rglob("*.py"):
        for name in imported(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] == "gwm" and len(parts) > 1 and parts[1] in LAYERS:
                assert parts[1] in MAY_IMPORT[layer], f"{path} imports {name}"


def test_shards_know_no_torch_and_core_knows_no_files():
    for layer, banned in (("shards", {"torch"}), ("core", {"pathlib", "os", "webdataset", "av", "cv2"})):
        for path in (ROOT / layer).rglob("*.py"):
            for name in imported(ast.parse(path.read_text())):
                assert name.split(".")[0] not in banned, f"{path} imports {name}"


def test_no_source_file_is_over_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_help_needs_no_torch_and_half_a_second_of_cpu():
    """The least of three runs: other work on the machine only adds to the time."""
    code = (
        "import sys, time\n"
        "sys.argv = ['gwm', '--help']\n"
        "from gwm.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), time.process_time(), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "rollout" in result.stdout
        loaded, _, last = result.stderr.strip().rpartition(" ")
        assert loaded == "[]", f"`gwm --help` imports {loaded}"
        seconds.append(float(last))
    assert min(seconds) < 0.5


def surface(group: Any, prefix: str = "gwm") -> dict[str, list[str]]:
    """Every command with its arguments and options."""
    found = {}
    for name, entry in sorted(group.commands.items()):
        full = f"{prefix} {name}"
        if hasattr(entry, "commands"):
            found |= surface(entry, full)
        else:
            found[full] = sorted(
                o for p in entry.params for o in (p.opts if p.param_type_name == "option" else [p.name])
            )
    return found


def test_options_change_only_together_with_the_committed_list():
    """If a change of the command line is meant, write the new list: `python tests/test_structure.py`."""
    assert surface(typer.main.get_command(app)) == json.loads(OPTIONS.read_text())


if __name__ == "__main__":
    OPTIONS.write_text(json.dumps(surface(typer.main.get_command(app)), indent=2) + "\n")
