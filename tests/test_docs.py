"""Documents that are generated are up to date, and the README's Python runs."""

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
import yaml

import fabrica
import fabrica.families
import fabrica.jobs
from fabrica.contracts import Batch
from fabrica.data.acquisition import ACQUISITIONS
from fabrica.families import Flow
from fabrica.networks.unet import UNetShape
from fabrica.physics.variation import total_variation
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.sampling.restorers import posterior

from . import slow

ROOT = Path(fabrica.__file__).parents[1]


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_coverage_is_up_to_date_and_names_only_what_is_there() -> None:
    coverage = _script("methods")
    assert (ROOT / "docs" / "coverage.md").read_text() == coverage.page(), "Run: make docs"
    with (ROOT / "docs" / "methods.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 175
    for row in rows:
        status, how = coverage.judge(row)
        assert status in coverage.STATUS
        assert how, row["method"]
        if status in ("have", "equivalent"):
            _accepted(how)
    assert (
        coverage.judge({**rows[0], "family": "Telepathy", "section": "Unconditional Synthesis", "subsection": ""})[0]
        == "planned"
    )
    assert coverage.losses("L1 loss, tri-plane loss") == (["L1"], ["tri-plane loss"])


def test_a_loss_is_claimed_of_a_family_that_takes_it() -> None:
    coverage = _script("methods")
    every = [name for _, name in coverage.LOSSES]
    for family, codec in (("diffusion", None), ("gan", None), ("cycle", None), ("diffusion", "vae")):
        taken, more = coverage.taken_by(family, codec, every, "synthesis", "")
        assert ("denoising" in taken) == (family == "diffusion")
        assert "structural" not in taken  # there is nothing to compare with
        assert ("adversarial forms" in taken) == (family != "diffusion" or codec == "vae")
        assert more == (["adversarial: 0.1"] if codec else [])
        assert "contrastive" not in taken
    taken, more = coverage.taken_by("gan", None, ["L1", "KL"], "translation", "WGAN-GP loss")
    assert (taken, more) == (["L1"], ["losses: {absolute: 1}", "adversarial: wasserstein"])


def _accepted(how: str) -> None:
    """What a row of the page names is a recipe that would be run; codes and words come from a stage before."""
    parts = [yaml.safe_load(p) for p in re.findall(r"`([a-z ]+: [^`]+)`", how)]
    named = {key: value for part in parts for key, value in part.items()}
    job = named.get("job", "translation")
    example = {
        "translation": {"from": ["T1w"], "x": ["FLAIR"]},
        "synthesis": {"x": ["FLAIR"]},
        "enhancement": {},
        "reconstruction": {},
        "dose": {},
        "interpolation": {},
        "cine": {},
        "progression": {},
        "representation": {"from": ["FLAIR"]},
        "survival": {"from": ["T1w"]},
    }[job]
    words = {k: named[k] for k in ("text", "values", "acquisition", "factor", "by") if k in named}
    if "acquisition" in named:
        words["x"] = {"mr": "T1w", "ct": "CT", "pet": "PET"}[named["acquisition"]["name"]]
    network = {**named.get("network", {}), "channels": [48, 48], "blocks": 1}
    family = {"name": named["family"], "network": network}
    coder = next((name for name in ("vq", "vae") if f" of `{name}`" in how), None)
    critic = {k: named[k] for k in ("adversarial",) if k in named}
    family |= {k: named[k] for k in ("losses", "form", "hide") if k in named} | ({} if coder else critic)
    plain = {
        "cohorts": {"all": {"path": "x"}}, "baseline": "none",
        "stages": {"model": {"job": {"name": job, **example, **words}, "family": family, "train": {"steps": 1}}},
    }  # fmt: skip
    if "sampler" in named:
        plain["stages"]["model"]["sampler"] = {"name": named["sampler"]}
    if named["family"] == "cycle":
        plain["stages"]["model"]["pairing"] = "none"
    if coder:
        codec = {
            "job": {"name": "synthesis", "x": ["FLAIR"], "place": False},
            "family": {"name": coder, **critic},
            "train": {"steps": 1},
        }
        plain["stages"] = {"codec": codec, "model": plain["stages"]["model"]}
        family |= {"in": {"stage": "codec"}, "network": {**network, "patch": 1}}
    from_plain(plain)


def test_readme_python_is_real() -> None:
    """Every name that the README imports or calls exists; the recipes that it names are shipped."""
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"fabrica\.(\w+)\(", text):
        assert name in fabrica.__all__, name
    for path in re.findall(r"recipes/\w+\.yaml", text):
        assert (ROOT / path).is_file(), path


def test_every_install_line_is_constrained() -> None:
    for path in (ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for line in path.read_text().splitlines():
            if "pip install" in line:
                assert "-c constraints.txt" in line or "-c constraints-federation.txt" in line, line


def test_an_operator_of_ones_own_is_one_page() -> None:
    """The page's classes pass the laws, and every sampler and classical answer takes them."""
    page = (ROOT / "docs" / "operators.md").read_text()
    told: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], told)
    ACQUISITIONS.builtin["defocus"] = told["Defocus"]
    try:
        recipe = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.S)[0])
        checked = from_plain({"cohorts": {"all": {"virtual": {"patients": 2}}}, "train": {"steps": 1}, **recipe})
        job = checked.stage("model").build_job()
        images, affine = torch.zeros(2, 1, 32, 32), torch.eye(4).expand(2, 4, 4)
        images[..., 8:24, 10:22] = 1.0
        asked = job.question(Batch(("a", "b"), {"T1w": images}, affine, {"position": torch.zeros(2)}), Rng([0, 1]))
        (measured,) = asked.measurements.values()
        found = total_variation(measured.operator, measured.noise, measured.value)
        assert float(((found - images) ** 2).mean()) < 0.5 * float(((measured.value - images) ** 2).mean())
        drawn = posterior(Flow(job.signature(), UNetShape((8, 16), 1), "fp32"), asked, Rng([0, 1]), steps=3)
        assert drawn.shape == images.shape
    finally:
        del ACQUISITIONS.builtin["defocus"]


def test_long_tests_that_are_listed_are_there() -> None:
    names = slow.listed()
    assert len(names) > 100
    for name in names:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), name
    assert slow.taken(
        "6.10s call     tests/a/test_b.py::test_c[x-1] \n1.00s setup    tests/a/test_b.py::test_c[y]\n"
    ) == {"a/test_b.py::test_c": 6.1}
