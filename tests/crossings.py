"""How often the way of a run leaves a folder and comes back: `python -m tests.crossings [PACKAGE FOLDER]`.

Read from the source: from `run_recipe` and `judge_stage` every call of a function or class of the package that the code names is
followed. A call crosses where the callee lies in another folder; a loose module counts as a folder of its own, a folder as one.
"""

import ast
import sys
from pathlib import Path

STARTS = ("run_recipe", "judge_stage")
VOCABULARY = ("rng", "contracts")  # spoken everywhere, as errors are: no way leads through it


def folder_of(module: tuple[str, ...]) -> str:
    return module[0] if module else "__init__"


def _module(path: Path, root: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _absolute(module: tuple[str, ...], is_package: bool, node: ast.ImportFrom) -> tuple[str, ...]:
    base = module if is_package else module[:-1]
    base = base[: len(base) - node.level + 1]
    return (*base, *(node.module.split(".") if node.module else ()))


class Source:
    """Definitions and imported names of every file."""

    def __init__(self, root: Path) -> None:
        self.names: dict[tuple[str, ...], dict[str, tuple[tuple[str, ...], str]]] = {}
        self.bodies: dict[tuple[tuple[str, ...], str], ast.AST] = {}
        for path in sorted(root.rglob("*.py")):
            module, own = _module(path, root), dict[str, tuple[tuple[str, ...], str]]()
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level:
                    there = _absolute(module, path.name == "__init__.py", node)
                    own |= {a.asname or a.name: (there, a.name) for a in node.names}
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    own[node.name] = (module, node.name)
                    self.bodies[module, node.name] = node
            self.names[module] = own

    def find(self, module: tuple[str, ...], name: str) -> tuple[tuple[str, ...], str] | None:
        """Where a name is defined, through files that only pass it on."""
        seen = set()
        while (module, name) not in self.bodies and (module, name) not in seen:
            seen.add((module, name))
            if name not in self.names.get(module, {}):
                return None
            module, name = self.names[module][name]
        return (module, name) if (module, name) in self.bodies else None

    def calls(self, module: tuple[str, ...], name: str) -> list[tuple[tuple[str, ...], str]]:
        found = []
        for node in ast.walk(self.bodies[module, name]):
            if not isinstance(node, ast.Call):
                continue
            target = node.func
            if isinstance(target, ast.Name):
                callee = self.find(module, target.id)
            elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                there = self.names[module].get(target.value.id)
                callee = self.find((*there[0], there[1]), target.attr) if there else None
            else:
                callee = None
            if callee is not None:
                found.append(callee)
        return found


def crossings(root: Path, start: str) -> list[tuple[str, str]]:
    """(caller, callee) of every call that leaves a folder on the way of a function, in the order met."""
    source = Source(root)
    found, waiting = [], [key for key in source.bodies if key[1] == start]
    seen = set(waiting)
    while waiting:
        module, name = waiting.pop(0)
        for there, callee in source.calls(module, name):
            vocabulary = folder_of(there) in VOCABULARY or callee.endswith("Error")
            if folder_of(there) != folder_of(module) and not vocabulary:
                found.append((f"{'.'.join(module)}.{name}", f"{'.'.join(there)}.{callee}"))
            if (there, callee) not in seen:
                seen.add((there, callee))
                waiting.append((there, callee))
    return found


if __name__ == "__main__":
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fabrica"
    for one in STARTS:
        way = crossings(package, one)
        print(f"{one}: {len(way)} calls leave a folder, {len(set(way))} of them different")
