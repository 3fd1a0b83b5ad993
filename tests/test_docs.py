"""Documents say what is: settings, commands, options, paths and make targets that they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from dualdiff import cli
from dualdiff.generation.recipe import read_recipe
from dualdiff.project.settings import example_toml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
TREE = re.findall(r"^```\n(dualdiff/\n.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0]
COMMAND_LINES = sorted(set(re.findall(r"(?<![\w./-])dualdiff ((?:[a-z]+\b ?)+[^\n`#|]*)", TEXT)))
GROUP = typer.main.get_command(cli.app)


def test_the_example_holds_every_setting():
    assert (ROOT / "dualdiff.toml.example").read_text(encoding="utf-8") == example_toml()


def command_of(words):
    """The command that the words begin with, or None where they are no command line but a sentence."""
    command = GROUP
    for word in words:
        subcommands = getattr(command, "commands", {})
        if word not in subcommands:
            break
        command = subcommands[word]
    return command if command is not GROUP and not getattr(command, "commands", {}) else None


def test_every_stage_is_in_the_documents():
    shown = {command_of(line.split()) for line in COMMAND_LINES} - {None}
    for line in ("init", "dataset scan", "vae train", "encode", "unet train", "generate", "doctor", "inspect x"):
        assert command_of(line.split()) in shown


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^    dualdiff (.*?)(?:\s+#.*)?$", TEXT, re.MULTILINE))))
def test_command_lines_exist(line):
    command = command_of(line.split())
    assert command is not None, f"dualdiff {line}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", line)) <= known


def test_commands_named_in_passing_exist():
    for words in re.findall(r"`dualdiff ([a-z ]+)", TEXT):
        assert command_of(words.split()) is not None, f"dualdiff {words}"


def tree_entries():
    """The names in the tree of the package, as paths from the root; a line's folder holds the files after it."""
    for line in TREE.splitlines():
        inside = Path("dualdiff" if line.startswith(" ") else "")
        names = [word.strip(",") for word in line.split() if re.fullmatch(r"[\w./]+(\.py|/),?", word)]
        if inside.parts and names and names[0].endswith("/"):
            yield inside / names[0]
            inside, names = inside / names[0], names[1:]
        yield from (inside / name for name in names)


def test_paths_in_the_tree_exist():
    missing = [str(path) for path in tree_entries() if not (ROOT / path).exists()]
    assert not missing


def test_every_unit_of_the_package_is_in_the_tree():
    units = {path.name for path in (ROOT / "dualdiff").iterdir() if not path.name.startswith(("_", "py.typed"))}
    named = {path.parts[1] for path in tree_entries() if path.parts[0] == "dualdiff" and len(path.parts) > 1}
    assert units <= named, f"not in the tree of the package: {sorted(units - named)}"


def test_files_named_in_passing_exist():
    named = re.findall(r"`((?:examples|benchmarks|docs|dualdiff|tests)/[\w./-]+)`", TEXT)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:]+)\)", prose)
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_page_is_linked_from_the_readme():
    links = re.findall(r"\]\((docs/[\w-]+\.md)\)", README)
    assert sorted(links) == sorted(path.relative_to(ROOT).as_posix() for path in PAGES[1:])


def test_the_readme_is_about_600_words():
    words = re.findall(r"[A-Za-z][\w'-]*", re.sub(r"\]\([^)]*\)", "]", README))
    assert len(words) <= 700


def test_the_clips_of_the_readme_carry_their_recipes():
    clips = [ROOT / name for name in re.findall(r"\]\((docs/clips/\S+?)\)", README)]
    assert len(clips) == 3
    for clip in clips:
        assert read_recipe(clip)["games"]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"test", "demo", "lint", "types", "bench", "clean"} <= targets
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", TEXT, re.MULTILINE)) <= targets


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@|TODO|FIXME|XXX", TEXT)


def test_the_page_on_formats_adds_a_format(tmp_path):
    page = (ROOT / "docs" / "adding-a-format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "folded.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, tmp_path / "folded.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("folded: (1, 2, 12800) -> (1, 2, 128, 100), back with an error of ")
