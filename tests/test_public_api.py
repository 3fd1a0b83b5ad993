"""The public API: what `import dualdiff` offers, and that examples and README use nothing else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dualdiff
from dualdiff import audio
from dualdiff.generation.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCKS = [
    block
    for page in (ROOT / "README.md", ROOT / "docs" / "library.md")
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def test_the_public_names_are_these():
    assert set(dualdiff.__all__) == {"Pipeline", "__version__", "read_audio", "write_audio"}
    assert dualdiff.Pipeline is Pipeline
    assert (dualdiff.read_audio, dualdiff.write_audio) == (audio.read, audio.write)
    assert set(dualdiff.__all__) <= set(dir(dualdiff))


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="'dualdiff' has no attribute 'Pipelin'"):
        dualdiff.Pipelin  # noqa: B018


def test_importing_dualdiff_imports_nothing_heavy():
    code = "import sys, dualdiff; print({'torch', 'numpy', 'soundfile', 'typer'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def names_used(code):
    """The modules and names of dualdiff that a piece of code imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dualdiff":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dualdiff")


@pytest.mark.parametrize("code", [path.read_text(encoding="utf-8") for path in EXAMPLES] + BLOCKS)
def test_examples_and_readme_use_the_public_api_only(code):
    public = {"dualdiff"} | {f"dualdiff.{name}" for name in dualdiff.__all__}
    assert set(names_used(code)) <= public
    assert set(names_used(code)), "an example shows how dualdiff is used"
