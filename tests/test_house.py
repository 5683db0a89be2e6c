"""The house rules of ARCHITECTURE.md, kept by reading the source."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import fabrica
from fabrica.computations import COMPUTATIONS
from fabrica.contracts import Codec, Decoder, Denoiser, Density, Family, Matcher, Reconstructor, Speaker
from fabrica.evaluate import METRICS
from fabrica.families import FAMILIES
from fabrica.jobs import JOBS
from fabrica.sampling import SAMPLERS

pytestmark = pytest.mark.no_cover  # sources are read here, not run: tracing would double the time
ROOT = Path(fabrica.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = [
    ("rng", "machine"), ("contracts",), ("registry",), ("io", "networks", "physics"), ("data", "sampling", "deliver"),
    ("families", "jobs", "computations", "evaluate"), ("recipe",), ("learning",), ("safeguards",), ("run", "testing"),
    ("generate",), ("study", "serve", "audit", "federate"), ("cli",), ("__main__",),
]  # fmt: skip
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def _module(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Top-level names of the package that a file imports."""
    depth = len(path.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_its_left(path: Path) -> None:
    own = _module(path)
    if own == "__init__":
        return
    for other in _imports(path) - {own, "__version__"}:
        assert RANK[other] < RANK[own], f"{path.name}: {own} may not import {other}"


def test_no_family_knows_a_job_by_name() -> None:
    """Nor do networks or samplers: what a family is asked for stands in its signature."""
    for path in FILES:
        if _module(path) in ("families", "networks", "sampling"):
            texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not texts & set(JOBS.names()), f"{path.name} names a job"


def _functions(path: Path) -> list[tuple[ast.FunctionDef, int]]:
    tree, lines = ast.parse(path.read_text()), path.read_text().splitlines()
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if not body:
                continue
            text = lines[body[0].lineno - 1 : node.end_lineno]
            result.append((node, sum(1 for t in text if t.strip() and not t.strip().startswith("#"))))
    return result


def test_functions_are_small() -> None:
    sizes = [size for path in FILES for _, size in _functions(path)]
    small = sum(size <= 40 for size in sizes) / len(sizes)
    long = [f"{p.name}:{f.name} {s}" for p in FILES for f, s in _functions(p) if s > 60]
    assert small >= 0.9
    assert not long


def test_files_and_parameter_lists_are_short() -> None:
    assert not [p.name for p in FILES if len(p.read_text().splitlines()) > 400]
    assert all(len(p.read_text().splitlines()) <= 300 for p in (ROOT / "contracts").glob("*.py"))
    assert len((ROOT / "learning" / "loop.py").read_text().splitlines()) <= 260
    wide = [
        f"{p.name}:{f.name}"
        for p in FILES
        if p.parent.name != "cli"  # a verb's options are its interface
        for f, _ in _functions(p)
        if len([a for a in f.args.args + f.args.kwonlyargs if a.arg not in ("self", "cls")]) > 8
    ]
    assert not wide


FORBIDDEN = (
    r"\beval\(",
    r"\bexec\(",
    r"pickle\.",
    r"import pickle",
    r"torch\.load\(",
    r"yaml\.load\(",
    r"shell=True",
    r"\.cuda\(\)",
)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_dangerous_calls_are_absent(pattern: str) -> None:
    hits = [
        p.name
        for p in FILES
        if re.search(pattern, re.sub(r"allow_pickle=False|inference|\.eval\(\)", "", p.read_text()))
    ]
    # the one file that reads torch's own format, where nothing but tensors may be loaded
    allowed = ["weights.py"] if pattern == r"torch\.load\(" else []
    assert hits == allowed
    assert all(
        "weights_only=True" in line
        for line in (ROOT / "io/weights.py").read_text().splitlines()
        if "torch.load(" in line
    )


def test_no_folder_is_a_drawer() -> None:
    assert not [p for p in ROOT.rglob("*") if p.stem in ("utils", "util", "common", "helpers", "misc")]


def test_classes_are_abstract_or_final() -> None:
    concrete = [FAMILIES.find(name) for name in FAMILIES.names()]
    capabilities = (Family, Denoiser, Decoder, Codec, Density, Matcher, Reconstructor, Speaker)
    for one in concrete:
        assert not inspect.isabstract(one)
        assert all(base in (*capabilities, *Family.__mro__) for base in one.__mro__[1:]), (
            f"{one} inherits from a concrete class"
        )


@pytest.mark.parametrize("table", [FAMILIES, JOBS, COMPUTATIONS, SAMPLERS, METRICS], ids=lambda t: t.noun)
def test_every_registered_name_says_what_it_is(table: object) -> None:
    for name in table.names():
        member = table.find(name)
        subject = getattr(member, "function", None) or getattr(member, "draw", None) or member
        assert inspect.getdoc(subject), f"{table.noun} {name} has no docstring"


def test_public_names_exist_and_bear_no_module_name() -> None:
    modules = {p.stem for p in FILES} | {p.name for p in ROOT.iterdir() if p.is_dir()}
    for name in fabrica.__all__:
        assert getattr(fabrica, name) is not None
        assert name not in modules
    with pytest.raises(AttributeError, match="Public names"):
        _ = fabrica.nothing


def test_text_files_name_no_machine() -> None:
    root = ROOT.parent
    texts = [
        p
        for pattern in ("*.md", "*.toml", "*.yaml", "Makefile", "recipes/*", "docs/*", ".ci/*")
        for p in root.glob(pattern)
        if p.is_file()
    ]
    assert texts
    for path in [*texts, *FILES]:
        assert not re.search(r"/root/|/work/|/home/\w+/|file:///", path.read_text()), path


def _margins() -> list[tuple[str, list[float]]]:
    """(place, shares of its bound that the comment above tells) of every call of tests/margin.py."""
    found = []
    for path in sorted((ROOT.parent / "tests").rglob("test_*.py")):
        lines = path.read_text().splitlines()
        if path.name == "test_house.py" or not any(re.match(r"from \.+margin import", line) for line in lines):
            continue
        for k, line in enumerate(lines):
            if re.match(r"\s+(below|above|near)\(", line):
                told = re.findall(r"\((\d+\.\d+) of the bound", lines[k - 1])
                found.append((f"{path.name}:{k + 1}", [float(share) for share in told]))
    return found


def test_learned_figures_stay_away_from_their_bounds() -> None:
    """Each bound lies 1.5 times beyond the worst of the seeds that `python -m tests.survey` has measured."""
    margins = _margins()
    assert len(margins) > 30
    assert not [place for place, shares in margins if not shares or max(shares) > 1 / 1.5 + 0.005]


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_files_do_not_import_in_circles() -> None:
    """Nor do they import private names of another file."""
    files = {_module_name(p): p for p in FILES}
    needs: dict[str, set[str]] = {}
    for name, path in files.items():
        base = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        needs[name] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                private = [a.name for a in node.names if re.match(r"_[a-z]", a.name)]
                assert not private, f"{name} imports {private}"
                there = ".".join([*base[: len(base) - node.level + 1], *([node.module] if node.module else [])])
                found = {f"{there}.{a.name}" if f"{there}.{a.name}" in files else there for a in node.names}
                needs[name] |= {other for other in found if not f"{name}.".startswith(f"{other}.")}
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert not needs, f"a circle: {sorted(needs)[:4]}"


def test_few_modules_lie_loose() -> None:
    loose = {p.stem for p in ROOT.glob("*.py")}
    assert loose <= {"__init__", "__main__", "registry", "rng"}
    assert len(LAYERS) <= 14


def test_no_file_but_its_own_names_a_job() -> None:
    """What others need to know of a job stands in its contract; nobody asks for its class."""
    for path in FILES:
        if _module(path) in ("jobs", "recipe"):  # a recipe is made of names
            continue
        tree = ast.parse(path.read_text())
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        if _module(path) != "evaluate":  # where reconstruction and synthesis are words of their own
            assert not texts & (set(JOBS.names()) - {"segmentation", "dose", "cine"}), f"{path.name} names a job"
        classes = {JOBS.find(name).__name__ for name in JOBS.names()}
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not names & classes, f"{path.name} asks for {names & classes}"


def test_sentences_of_docstrings_are_read_once() -> None:
    """The median has at most 12 words, none more than 40."""
    lengths = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) else None
            found = [len(s.split()) for s in re.split(r"(?<=[.:;])\s+", text or "") if s]
            assert max(found, default=0) <= 40, f"{path.name}: {text}"
            lengths += found
    assert sorted(lengths)[len(lengths) // 2] <= 12
