"""The house rules that can be read from the sources: layers, cycles, bans, and nothing said twice."""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dualdiff"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# A package imports only from packages of lower levels, and from itself.
LEVELS = {
    "core": 1,
    "audio": 2,
    "formats": 2,
    "models": 2,
    "diffusion": 2,
    "losses": 2,
    "model_store": 3,
    "generation": 4,
    "data": 4,
    "training": 5,
    "evaluation": 5,
    "project": 6,
    "inspection": 6,
    "pages": 7,
    "tasks": 7,
    "cli": 8,
    "__main__": 9,
}

# Who alone may import a library, or a name of one.
ONLY = {
    "typer": ("cli/",),
    "rich": ("cli/",),
    "soundfile": ("audio/",),
    "accelerate": ("training/",),
    "torch.utils.tensorboard": ("training/",),
    "tomli": ("core/config.py",),
    "pickle": (),
    "shelve": (),
    "marshal": (),
    "dill": (),
    "joblib": (),
    "click": (),
    "torchaudio.load": (),
    "torchaudio.save": (),
    "torchaudio.info": (),
}
LONGEST_FILE = 450


def module_of(name: str) -> str:
    """`data/ledger.py` is dualdiff.data.manifest; `data/__init__.py` is dualdiff.data."""
    parts = ["dualdiff", *name.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_of(name): name for name in FILES}


def imports_of(name: str, at_import_only: bool = False) -> set[str]:
    """The dotted names that a file imports: all of them, or those that importing the file imports in turn."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not (at_import_only and (inside or typing_only)):
                visit(child)

    visit(TREES[name])
    return found


def imported_modules(name: str, at_import_only: bool = False) -> set[str]:
    """The modules of dualdiff that a file imports."""
    found = set()
    for dotted in imports_of(name, at_import_only):
        if dotted.split(".")[0] == "dualdiff":
            while dotted not in MODULES and "." in dotted:
                dotted = dotted.rpartition(".")[0]
            found.add(dotted)
    return found - {module_of(name)}


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "dualdiff"


def may_import(name: str, imported: str) -> bool:
    importer = unit_of(module_of(name))
    if imported in ("dualdiff", importer):  # the version, and one's own package
        return True
    return LEVELS[imported] < LEVELS[importer]


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    if name == "__init__.py":
        assert not imported_modules(name, at_import_only=True), "importing dualdiff is instant"
        return
    wrong = {module for module in imported_modules(name) if not may_import(name, unit_of(module))}
    assert not wrong, f"{name} may not import {sorted(wrong)}"


def test_every_package_has_a_level():
    assert {unit_of(module_of(name)) for name in FILES} - {"__init__"} == set(LEVELS)
    assert {name for name in FILES if "/" not in name} == {"__init__.py", "__main__.py"}


def test_imports_have_no_cycle():
    graph = {module: imported_modules(name, at_import_only=True) for module, name in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the cycle


@pytest.mark.parametrize("name", FILES)
def test_libraries_stay_where_they_belong(name):
    for dotted in imports_of(name):
        for library, homes in ONLY.items():
            if f"{dotted}.".startswith(f"{library}."):
                assert name.startswith(homes), f"{name} may not import {library}"


@pytest.mark.parametrize("name", FILES)
def test_bans(name):
    calls = [ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    banned = {"torch.load", "torch.save", "print", "eval", "exec", "torchaudio.load", "torchaudio.save", "np.load"}
    assert not banned & set(calls)
    assert "util" not in Path(name).stem, "a file is named for what is in it"
    raised = [ast.unparse(node.exc) for node in ast.walk(TREES[name]) if isinstance(node, ast.Raise) and node.exc]
    assert not [text for text in raised if text.startswith("NotImplementedError")]
    handlers = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ExceptHandler)]
    assert all(handler.type is not None for handler in handlers), "an except names what it catches"


# What may take a file away, or empty one: only `core/files.py`, which keeps the rule about what may be deleted.
DESTRUCTIVE = {
    *(f"os.{name}" for name in ("remove", "unlink", "rmdir", "removedirs", "rename", "renames", "replace", "truncate")),
    *("os.open", "os.fdopen", "os.mkfifo", "io.open", "codecs.open", "os.link", "os.symlink"),
    *(f"shutil.{name}" for name in ("rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copymode", "copystat")),
    *("tempfile.NamedTemporaryFile", "tempfile.mkstemp", "tempfile.mkdtemp"),
}
DESTRUCTIVE_METHODS = {
    *("unlink", "rmdir", "rename", "rmtree", "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"),
    "truncate",
}
# Writers of libraries, each given a temporary name, a buffer or a new name of its own.
WRITERS = {
    "audio/cache.py": {"soundfile.SoundFile"},
    "audio/writer.py": {"soundfile.SoundFile"},
}


def destructive_calls(tree: ast.AST) -> list[str]:
    """The calls in a module that can delete, rename or empty a file."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, method = ast.unparse(node.func), node.func.attr if isinstance(node.func, ast.Attribute) else ""
        arguments = [ast.unparse(argument) for argument in node.args]
        mode = next((ast.unparse(word.value) for word in node.keywords if word.arg == "mode"), "")
        if name == "open" or method == "open":
            modes = [mode, *arguments[name == "open" : 2]]
            writes = any(set(text.strip("'")) & set("wax+") and text.startswith("'") for text in modes)
            if writes and arguments[:1] != ["os.devnull"]:
                found.append(f"{node.lineno}: {name}")
        if name == "os.open" and arguments[:1] == ["os.devnull"]:
            continue
        one_argument = len(node.args) == 1 and not node.keywords
        moves = method == "replace" and one_argument and name != "dataclasses.replace"  # of text it takes two
        writes = name == "soundfile.SoundFile" and "'w'" in arguments
        if name in DESTRUCTIVE or method in DESTRUCTIVE_METHODS or moves or writes:
            found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("name", FILES)
def test_only_one_module_deletes_renames_or_empties_files(name):
    if name == "core/files.py":
        return
    found = [call for call in destructive_calls(TREES[name]) if call.partition(": ")[2] not in WRITERS.get(name, ())]
    assert not found, f"{name} changes files itself: {found}; core/files.py has what is safe"


@pytest.mark.parametrize(
    "line",
    [
        "path.unlink(missing_ok=True)",
        "shutil.rmtree(folder)",
        "os.replace(one, other)",
        "one.replace(other)",
        "path.rename(other)",
        "open(path, 'w')",
        "open(path, mode='r+b')",
        "path.open('a')",
        "path.write_text('x')",
        "soundfile.SoundFile(path, 'w', 1, 1)",
    ],
)
def test_what_takes_files_away_is_seen(line):
    assert destructive_calls(ast.parse(line))


@pytest.mark.parametrize(
    "line", ["open(path, 'rb')", "text.replace('a', 'b')", "replace(row, state='used')", "open(path)"]
)
def test_what_does_not_is_not(line):
    assert not destructive_calls(ast.parse(line))


@pytest.mark.parametrize("name", FILES)
def test_classes_are_abstract_or_final(name):
    allowed = (
        "nn.Module",
        "autograd.Function",
        "Protocol",
        "Exception",
        "Error",
        "Enum",
        "NamedTuple",
        "TypedDict",
        "ABC",
        "Generic",
        "RawIOBase",
    )
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                text = ast.unparse(base).split("[")[0]
                fine = text.endswith(allowed) or text.startswith("Abstract")
                assert fine, f"{name}: {node.name} extends {text}; wrap it instead"
            bases = {ast.unparse(base) for base in node.bases}
            assert not node.name.startswith("Abstract") or bases == {"ABC"}, f"{name}: {node.name} is not abstract"


def functions() -> dict[str, list[tuple[str, ast.FunctionDef]]]:
    """All functions of the package with a body of six statements or more, by the text of that body."""
    by_body = defaultdict(list)
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if sum(isinstance(inner, ast.stmt) for part in body for inner in ast.walk(part)) >= 6:
                    text = "\n".join(ast.dump(statement) for statement in body)
                    by_body[text].append((f"{name}:{node.name}", node))
    return by_body


def test_no_function_is_written_twice():
    twice = [[place for place, _ in found] for found in functions().values() if len(found) > 1]
    assert not twice


def test_there_is_one_training_loop():
    stepping = [
        f"{name}:{node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith(".backward") for inner in ast.walk(node)
        )
    ]
    assert {place.split(":")[0] for place in stepping} <= {"training/loop.py"}, "only the loop goes backward"


@pytest.mark.parametrize("name", FILES)
def test_files_stay_readable(name):
    lines = FILES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{name} has {lines} lines; split it"
    if FILES[name].stat().st_size:
        assert ast.get_docstring(TREES[name]), f"{name} says what it is for"
