"""The layer rule of the package: imports point down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vivavoce"

FRONT_DOOR = "the package itself"  # its __init__ shows the top of the package, so whoever imports from there imports everything

# What each room may import from its siblings. A room or module that is not here fails the first test: adding one means deciding.
BELOW: dict[str, set[str]] = {
    "graph": set(),
    "components": set(),
    "media": set(),
    "flow": set(),
    "nets": set(),
    "metrics": set(),
    "speech": {"media", "flow", "graph", "components"},
    "latent": {"media", "flow", "graph", "components"},
    "generate": {"speech", "latent", "nets", "media", "flow", "graph"},
    "animate": {"generate", "speech", "latent", "nets", "media", "flow"},
    "video_scene": {"latent", "nets"},
    "generate_video": {"generate", "video_scene", "latent", "nets", "flow"},
    "animate_video": {"animate", "generate_video", "video_scene", "components", "speech", "latent", "nets", "media"},
    "judge": {"animate", "generate", "speech", "latent", "metrics", "nets", "media", "flow"},
    "live": {"animate", "speech", "latent", "media"},
    "train": {
        "judge", "animate", "generate_video", "video_scene", "generate", "components", "speech", "latent", "metrics", "nets",
        "media", "flow",
    },
    "apps": {
        FRONT_DOOR, "train", "judge", "live", "animate_video", "generate_video", "video_scene", "animate", "generate",
        "components", "speech", "latent", "metrics", "nets", "media", "flow",
    },
}
DATA = {"weights"}  # folders without code
FRONT = {"__init__", "__main__"}  # the package's own face, which may show anything

WEB = {
    "fastapi", "starlette", "uvicorn", "aiortc", "pydantic", "prometheus_client", "aiohttp", "flask", "gradio", "websockets",
    "http", "socketserver",
}
FORBIDDEN_IMPORTS = {"subprocess", "pty"}
FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "os.chdir", "os.system", "os.popen", "sys.exit"}


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def room(module: Path, package: Path) -> str:
    """The first part of the module's place: a folder, or a module beside the folders."""
    return module.relative_to(package).with_suffix("").parts[0]


def imports(module: Path, package: Path) -> set[str]:
    """Absolute names of everything that the module imports, wherever in it, relative imports resolved."""
    here = (package.name, *module.relative_to(package).with_suffix("").parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) + "." if node.level else ""
            source = (base + (node.module or "")).rstrip(".")
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return names


def calls(module: Path) -> set[str]:
    return {
        ast.unparse(node.func) for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    }


def siblings(names: set[str], package: Path) -> set[str]:
    """The rooms that imported names are in, or FRONT_DOOR where a name is in none."""
    rooms = set()
    for name in names:
        first, *rest = name.split(".")
        if first == package.name:
            rooms.add(rest[0] if rest and rest[0] in BELOW else FRONT_DOOR)
    return rooms


def violations(package: Path) -> list[str]:
    """Everything in the package that breaks the rule, as sentences."""
    found = [
        f"{path.name}: a room that the rule doesn't know"
        for path in package.iterdir()
        if path.is_dir() and path.name != "__pycache__" and path.name not in {*BELOW, *DATA}
    ]
    for module in modules(package):
        name, here = module.relative_to(package).as_posix(), room(module, package)
        if here in DATA:
            found.append(f"{name}: code in a folder of data")
        if here in FRONT or here in DATA:
            continue
        if here not in BELOW:
            found.append(f"{name}: a module that the rule doesn't know")
            continue
        names = imports(module, package)
        found += [f"{name} imports {other}" for other in sorted(siblings(names, package) - BELOW[here] - {here})]
        if here != "apps":
            tops = {imported.split(".")[0] for imported in names}
            found += [f"{name} imports {other}" for other in sorted(tops & (WEB | FORBIDDEN_IMPORTS))]
            found += [f"{name} calls {call}" for call in sorted(calls(module) & FORBIDDEN_CALLS)]
    return sorted(found)


def test_imports_point_down() -> None:
    assert violations(PACKAGE) == []


def test_the_rule_itself_points_down() -> None:
    order = list(BELOW)
    for name, below in BELOW.items():
        assert all(order.index(other) < order.index(name) for other in below - {FRONT_DOOR})


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("flow/x.py", "from vivavoce.media.track import Track", "flow/x.py imports media"),
        ("nets/x.py", "def f():\n    import vivavoce.flow.path", "nets/x.py imports flow"),
        ("media/x.py", "from ..speech import encoder", "media/x.py imports speech"),
        ("media/x.py", "from .. import speech", "media/x.py imports speech"),
        ("latent/x.py", "from vivavoce.speech import encoder", "latent/x.py imports speech"),
        ("train/x.py", "if True:\n    from vivavoce import apps", "train/x.py imports apps"),
        ("speech/x.py", "from vivavoce import Animator", "speech/x.py imports the package itself"),
        ("animate.py", "import fastapi.responses", "animate.py imports fastapi"),
        ("train/x.py", "from subprocess import run", "train/x.py imports subprocess"),
        ("train/x.py", "print('loss')", "train/x.py calls print"),
        ("media/x.py", "import os\nos.chdir('/')", "media/x.py calls os.chdir"),
        ("gadgets/x.py", "", "gadgets: a room that the rule doesn't know"),
        ("gadget.py", "", "gadget.py: a module that the rule doesn't know"),
        ("weights/x.py", "", "weights/x.py: code in a folder of data"),
    ],
)
def test_the_walk_sees_each_kind_of_violation(tmp_path: Path, module: str, text: str, complaint: str) -> None:
    path = tmp_path / "vivavoce" / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert complaint in violations(tmp_path / "vivavoce")


def test_the_walk_lets_the_rule_pass(tmp_path: Path) -> None:
    package = tmp_path / "vivavoce"
    for module, text in {
        "speech/x.py": "from ..media.track import Track\nfrom .y import z\nimport torch",
        "animate.py": "from vivavoce.nets import motion\nfrom vivavoce.speech.encoder import features",
        "apps/cli.py": "import fastapi, sys\nprint(1)\nsys.exit(2)",
        "__init__.py": "from vivavoce.animate import Animator",
    }.items():
        (package / module).parent.mkdir(parents=True, exist_ok=True)
        (package / module).write_text(text)
    assert violations(package) == []
