"""Draw docs/architecture.svg: the rooms of the package, and which imports which.

python scripts/architecture_picture.py

Modules and imports are read from the source; which room a module is in, and where the room stands, is said below. A
room imports only from rooms that stand lower. Arrows that follow from others (a to c, from a to b and b to c) are left
out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = "hf_diversity"
PICTURE = ROOT / "docs" / "architecture.svg"


class Room(NamedTuple):
    """Modules with one purpose; a name with `.*` is a folder and all that is in it."""

    title: str
    purpose: str
    modules: tuple[str, ...]
    row: int  # 0 is the highest
    left: int
    width: int


ROOMS = {
    "doors": Room(
        "Doors", "what users import and type",
        ("hf_diversity", "runs", "cli", "cli_layers", "cli_probe", "cli_push", "cli_env", "__main__"), 0, 0, 700,
    ),
    "trainer": Room("Trainer", "the regulariser in the loss of any Trainer", ("trainer",), 1, 0, 565),
    "probe": Room("Probe", "a report on any checkpoint", ("probe.*",), 1, 600, 420),
    "cards": Room("Cards", "README.md", ("cards.*",), 2, 0, 200),
    "step": Room(
        "One step", "around the loss",
        ("window", "rehearsal", "first_step", "ddp", "loss_scale", "training_log", "nonfinite"), 2, 275, 290,
    ),
    "callbacks": Room("Callbacks", "", ("callbacks.*",), 2, 600, 155),
    "checkpoints": Room("Checkpoints", "whole or not", ("checkpoints",), 3, 55, 200),
    "plots": Room("Plots", "figures", ("plots.*",), 3, 600, 180),
    "metrics": Room("Metrics", "", ("metrics.*",), 3, 800, 185),
    "publishing": Room("Publishing", "what leaves", ("publishing.*",), 4, 0, 230),
    "theory": Room("Theory", "", ("theory.*",), 4, 600, 160),
    "diagnostics": Room("Diagnostics", "", ("diagnostics.*",), 4, 780, 205),
    "evaluation": Room("Evaluation", "exact over a data set", ("data_pass", "evaluation"), 5, 325, 255),
    "inspection": Room("Inspection", "before training", ("inspection",), 5, 780, 225),
    "regulariser": Room(
        "Regulariser", "rows in, J and P out",
        ("regularizer", "bandwidth", "measures", "weight_regularizer"), 6, 225, 355,
    ),
    "layers": Room(
        "Layers and samples", "which activations, which positions",
        (
            "layers", "output_head", "dummy_inputs", "capture", "replicas", "masks", "frames", "samples",
        ),
        7, 225, 425,
    ),
    "config": Room("Configuration", "every choice, checked", ("config", "registry"), 8, 60, 590),
    "functional": Room(
        "Measures as pure functions", "(N, D) in, a number out", ("functional", "decorrelation", "orthogonality"),
        9, 225, 425,
    ),
    "kernels": Room("Kernels", "value and gradient; no checks", ("kernels.*",), 10, 225, 425),
    "models": Room("Models", "by name", ("models", "timm_models", "cifar_models", "small_models"), 8, 700, 295),
    "data": Room("Data", "", ("data.*",), 10, 730, 290),
    "base": Room(
        "Base", "shared; imports nothing of the package",
        ("tensors", "distributed", "module_names", "modes", "random_states", "paths", "compat", "citations",
          "versions", "environment", "trainer_metrics"), 11, 0, 700,
    ),
}  # fmt: skip

# Where an arrow goes down straight, to pass beside the rooms between
LANES = {
    ("checkpoints", "regulariser"): 241, ("publishing", "config"): 140, ("probe", "plots"): 768,
    ("probe", "inspection"): 995, ("probe", "data"): 1012, ("theory", "layers"): 612,
    ("trainer", "checkpoints"): 225, ("cards", "publishing"): 30, ("step", "regulariser"): 300,
}  # fmt: skip

# The two ways that docs/ARCHITECTURE.md follows, by the number or letter of the step
BATCH = {
    "trainer": "1", "window": "2", "masks": "3", "capture": "4", "samples": "5", "regularizer": "6", "bandwidth": "7",
    "measures": "8", "kernels.autograd": "9", "distributed": "10", "training_log": "11", "nonfinite": "12",
}  # fmt: skip
VALUE = {
    "config": "a", "trainer": "b", "regularizer": "c", "checkpoints": "d", "cards.card": "e", "publishing.files": "f",
    "runs": "g",
}  # fmt: skip


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its name without `hf_diversity.`; the package itself by its own."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or PACKAGE] = path
        if path.name == "__init__.py" and parts[0] == "__init__":
            found[PACKAGE] = path
    return found


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """What each module imports of the package, inside functions too, but for type checkers alone."""
    known = modules(root)
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def _imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    package = [PACKAGE, *(name.split(".") if name != PACKAGE else [])]
    if path.name != "__init__.py":
        package.pop()
    for node in _run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for full in names:
            if full.split(".")[0] == PACKAGE:
                yield _module(full.removeprefix(PACKAGE).removeprefix("."), known)


def _module(dotted: str, known: dict[str, Path]) -> str:
    """The module of a dotted name, whose end may be something inside it."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted or PACKAGE


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run: not those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _run(other)
            continue
        yield child
        yield from _run(child)


def room_of(name: str) -> str:
    """The room of a module.

    Raises:
        KeyError: it is in none, or in several.
    """
    folder = f"{name.split('.')[0]}.*"
    found = [key for key, room in ROOMS.items() if name in room.modules or folder in room.modules]
    if len(found) != 1:
        raise KeyError(f"{name} is in the rooms {found}: name it once in ROOMS of scripts/architecture_picture.py")
    return found[0]


def room_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Which rooms each room imports from."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, others in imports(root).items():
        found[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    return found


def _reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others."""

    def reached(room: str) -> set[str]:
        return graph[room].union(*(reached(other) for other in graph[room]))

    return [
        (room, other)
        for room in graph
        for other in sorted(graph[room])
        if not any(other in reached(third) for third in graph[room])
    ]


# ---- drawing

_CHARACTER, _LINE, _TOP, _GAP, _MARGIN = 7.25, 20, 24, 26, 12
_BADGE = {"batch": "#C24E00", "value": "#0062A8"}
_TINTS = {
    "doors": "#F3F3F3", "probe": "#EAF5EF", "callbacks": "#EAF5EF", "plots": "#EAF5EF", "metrics": "#EAF5EF",
    "theory": "#EAF5EF", "diagnostics": "#EAF5EF", "evaluation": "#EAF5EF", "inspection": "#EAF5EF",
    "checkpoints": "#EEF3FA", "cards": "#EEF3FA", "publishing": "#EEF3FA", "config": "#EEF3FA",
    "models": "#F3F3F3", "data": "#F3F3F3", "base": "#F3F3F3",
}  # fmt: skip
_CORE = "#FDF1E7"


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    lines: list[list[str]]


def _members(room: Room, known: dict[str, Path]) -> list[str]:
    """The modules of a room in the order in which they are drawn; a folder's own `__init__` is not shown."""
    names = []
    for name in room.modules:
        folder = name.removesuffix(".*")
        names += [m for m in known if m.startswith(f"{folder}.")] if name.endswith(".*") else [name]
    packages = {name.rpartition(".")[0] for name in known if "." in name}
    return list({_shown(name): name for name in names if name not in packages}.values())


def _shown(name: str) -> str:
    """A module's name in its box: without the folder, which is the title."""
    return name.split(".")[-1] if name.count(".") else name


def _badges(name: str) -> list[tuple[str, str]]:
    return [(mark, kind) for kind, way in (("batch", BATCH), ("value", VALUE)) if (mark := way.get(name))]


def _needed(name: str) -> float:
    return _CHARACTER * len(_shown(name)) + 17 * len(_badges(name)) + 14


def _boxes(known: dict[str, Path]) -> dict[str, _Box]:
    boxes: dict[str, _Box] = {}
    y = 0.0
    for row in range(max(room.row for room in ROOMS.values()) + 1):
        lowest = y
        for key, room in ROOMS.items():
            if room.row != row:
                continue
            lines: list[list[str]] = [[]]
            used = 0.0
            for name in _members(room, known):
                if lines[-1] and used + _needed(name) > room.width - 2 * 10 + 12:
                    lines.append([])
                    used = 0.0
                lines[-1].append(name)
                used += _needed(name)
            height = _TOP + _LINE * len(lines) + 6
            boxes[key] = _Box(room.left, y, room.width, height, lines)
            lowest = max(lowest, y + height)
        y = lowest + _GAP
    return boxes


def _draw_badge(x: float, y: float, mark: str, kind: str) -> Iterator[str]:
    yield f'<circle cx="{x}" cy="{y - 4}" r="7.5" fill="{_BADGE[kind]}"/>'
    yield f'<text x="{x}" y="{y}" class="mark">{mark}</text>'


def _draw_box(key: str, box: _Box) -> Iterator[str]:
    room = ROOMS[key]
    yield (
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6" '
        f'fill="{_TINTS.get(key, _CORE)}" stroke="#555"/>'
    )
    title, purpose = escape(room.title), escape(room.purpose)
    wide = len(room.title) * 8 + len(room.purpose) * 6.4 + 24 < box.width
    about = f'<tspan class="about" dx="8">{purpose}</tspan>' if wide else ""
    yield f'<text x="{box.x + 10}" y="{box.y + 18}" class="title">{title}{about}<title>{purpose}</title></text>'
    for index, line in enumerate(box.lines):
        x, y = box.x + 10, box.y + _TOP + _LINE * index + 15
        for name in line:
            for mark, kind in _badges(name):
                yield from _draw_badge(x + 7, y, mark, kind)
                x += 17
            yield f'<text x="{x}" y="{y}" class="name">{escape(_shown(name))}</text>'
            x += _CHARACTER * len(_shown(name)) + 14


def _draw_arrow(start: _Box, end: _Box, lane: float | None) -> str:
    """From the bottom of the importing room to the top of the imported one; straight down where they overlap."""
    left, right = max(start.x, end.x), min(start.x + start.width, end.x + end.width)
    if lane is not None:
        x0 = x1 = lane
    elif left + 30 < right:
        x0 = x1 = (left + right) / 2
    else:
        x0, x1 = start.x + start.width / 2, end.x + end.width / 2
        inset = 14
        x0 = min(max(x1, start.x + inset), start.x + start.width - inset)
        x1 = min(max(x0, end.x + inset), end.x + end.width - inset)
    y0, y1 = start.y + start.height, end.y - 2
    bend = min(40.0, (y1 - y0) / 2)
    return f'<path d="M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"/>'


def picture(root: Path = ROOT) -> str:
    """The SVG."""
    known = modules(root)
    boxes = _boxes(known)
    height = max(box.y + box.height for box in boxes.values())
    arrows = [
        _draw_arrow(boxes[room], boxes[other], LANES.get((room, other)))
        for room, other in _reduced(room_imports(root))
    ]
    drawn = [line for key, box in boxes.items() for line in _draw_box(key, box)]
    key = height + 26
    legend = [
        *_draw_badge(8, key, "1", "batch"),
        f'<text x="22" y="{key}" class="about">one batch, from train() to the gradient</text>',
        *_draw_badge(300, key, "a", "value"),
        f'<text x="314" y="{key}" class="about">one value, from YAML to the card and back</text>',
        f'<text x="620" y="{key}" class="about">arrow: imports (those that follow from others left out)</text>',
    ]
    width = max(box.x + box.width for box in boxes.values())
    box = f"{-_MARGIN} {-_MARGIN} {width + 2 * _MARGIN} {key + 2 * _MARGIN}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img">',
            "<title>The modules of hf_diversity in rooms; each imports from rooms below it</title>",
            "<defs><style>"
            "text{font-family:Helvetica,Arial,sans-serif;fill:#111}.title{font-size:14px;font-weight:bold}"
            ".about{font-size:12.5px;font-weight:normal;fill:#444}.name{font-family:Menlo,Consolas,monospace;"
            "font-size:12px}.mark{font-size:9.5px;font-weight:bold;fill:#fff;text-anchor:middle}"
            "path{fill:none;stroke:#777;stroke-width:1.4;marker-end:url(#head)}</style>"
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<polygon points="0 0 8 4 0 8" fill="#777"/></marker></defs>',
            f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="100%" height="100%" fill="#fff"/>',
            *arrows,
            *drawn,
            *legend,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
