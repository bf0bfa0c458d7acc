"""docs/ARCHITECTURE.md and its picture against the source."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("architecture_picture", ROOT / "scripts" / "architecture_picture.py")
drawing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drawing)

PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
# Rule 2: they know tensors alone
OF_TENSORS = ("kernels", "functional", "decorrelation", "orthogonality", "bandwidth", "measures", "regularizer")


def foreign_imports(path):
    """Other packages, outside the standard library, that a file imports when it is imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_the_committed_picture_is_that_of_the_source():
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.picture(), (
        "the imports or rooms changed: type python scripts/architecture_picture.py and look at docs/architecture.svg"
    )


def test_every_module_is_in_one_room_and_named():
    known = drawing.modules()
    assert len(known) > 100 and "kernels.chebyshev" in known and "hf_diversity" in known
    svg = drawing.PICTURE.read_text(encoding="utf-8")
    named = {*re.findall(r'class="name">([^<]+)<', svg), *re.findall(r"`([a-z_.]+)`", PAGE)}
    for name, path in known.items():
        drawing.room_of(name)
        if path.name != "__init__.py" or name == "hf_diversity":
            assert name.split(".")[-1] in named or name in named, name
    rooms = {name for room in drawing.ROOMS.values() for name in room.modules}
    assert rooms <= {*known, *(f"{name.split('.')[0]}.*" for name in known)}, "a room names a module that is gone"


def test_a_room_imports_only_from_rooms_that_stand_lower():
    found = drawing.room_imports()
    assert "kernels" in found["functional"] and found["kernels"] <= {"base"} and not found["base"]
    for room, others in found.items():
        for other in others:
            assert drawing.ROOMS[other].row > drawing.ROOMS[room].row, f"{room} imports from {other}"


def test_no_module_imports_itself_through_others():
    graph = drawing.imports()
    assert sum(map(len, graph.values())) > 200

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {"hf_diversity"}):
                visit(other, [*above, name])
            done.add(name)

    done = set()
    for name in graph:
        visit(name, [])


def test_what_is_of_tensors_knows_nothing_else():
    files = [path for name, path in drawing.modules().items() if name.split(".")[0] in OF_TENSORS]
    assert len(files) > 14 and all(f"`{name}`" in PAGE for name in OF_TENSORS)
    for path in files:
        assert set(foreign_imports(path)) - sys.stdlib_module_names <= {"torch", "triton", "numpy"}, path


def test_collectives_are_in_one_file():
    calls = re.compile(r"\b(all_reduce|all_gather|broadcast|reduce_scatter|barrier)\w*\(|import torch.distributed")
    found = {name for name, path in drawing.modules().items() if calls.search(path.read_text(encoding="utf-8"))}
    assert found == {"distributed"}


@pytest.mark.parametrize("package", ["matplotlib", "triton"])
def test_what_may_be_missing_is_imported_late(package):
    known = drawing.modules()
    eager = {name for name, path in known.items() if package in set(foreign_imports(path))}
    assert eager == ({"kernels.triton_direct", "kernels.triton_similarity"} if package == "triton" else set())
    for name, path in known.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                imported = {node.module or "", *(alias.name for alias in node.names)}
                assert not {one.split(".")[-1] for one in imported} & {one.split(".")[-1] for one in eager}, name


def test_the_steps_of_the_page_are_the_badges_of_the_picture():
    names = {step: name for name, step in drawing.BATCH.items()}
    lines = re.findall(r"^(\d+)\. (.*)", PAGE.split("## One batch")[1].split("## One value")[0], re.M)
    assert [step for step, _ in lines] == list(map(str, range(1, 13))) == sorted(names, key=int)
    for step, text in lines[:11]:
        assert f"`{names[step]}`" in text or step == "11", (step, text)
    letters = dict(re.findall(r"^- \*\*([a-z])\*\* `([\w.]+)`", PAGE, re.M))
    assert {name.removesuffix(".load_run"): letter for letter, name in letters.items()} == drawing.VALUE
