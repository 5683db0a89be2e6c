"""Which of 175 published methods Fabrica can be told to do: reads methods.csv, writes coverage.md. `python docs/coverage.py`"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
STATUS = ("have", "equivalent", "planned", "out of scope")
JOBS: Mapping[tuple[str, str], str] = {  # section -> the job that does it; none = it has to be built
    ("Unconditional Synthesis", ""): "synthesis",
    ("Conditional Synthesis", "Image-to-Image Synthesis"): "translation",
    ("Conditional Synthesis", "Anatomically-Guided Image Synthesis"): "translation",
    ("Denoising and Artifact Removal", ""): "translation",
    ("Conditional Synthesis", "Text-to-Image Synthesis"): "synthesis",
}
TEXT = {  # how words join a job; one answer to a question, or another image, needs an image to start from
    "synthesis": "text: {report: 64}",
    "translation": "values: {text: {report: 64}}",
}
LATER: Mapping[str, str] = {
    "Image Reconstruction": "the job reconstruction with its physics",
    "Super-Resolution": "operators of sampling and frames between frames",
    "Treatment Planning and Dynamic Intervention": "dose, respiration and registration fields",
    "Disease Progression Prediction": "the job prognosis over visits",
    "Foundation Models": "conditions from several modalities at once and pretrained weights",
}
FAMILIES: tuple[tuple[str, str], ...] = (  # word in the table -> family here
    ("diffusion", "diffusion"), ("gan", "gan"), ("vae", "vae"), ("cnn", "regression"), ("mamba", "regression"),
)  # fmt: skip
NETWORKS: Mapping[str, str] = {
    "transformer": "transformer",
    "mamba": "state-space",
}  # word in the table -> kind of network here
LOSSES: tuple[tuple[str, str], ...] = (  # pattern -> the loss here
    ("diffusion|noise loss", "denoising"), ("cycle", "L1 of the way back"), ("identity", "L1 of its own kind"),
    ("feature matching", "feature matching"), ("contrastive|infonce", "contrastive"), ("adversarial|gan|logistic", "adversarial forms"),
    ("tv|smooth", "total variation"), ("structure-cons|structural cons|shape cons", "edge agreement"), ("ssim|structural loss", "structural"), ("freq", "frequency"), ("gradient d|gradient l", "gradient difference"),
    ("kl", "KL"), ("quantization|codebook", "finite codes instead"), ("charbonnier|robust", "Charbonnier"), ("dice|bce|\\bce loss|cross-e", "cross-entropy and Dice"),
    ("l1|mae|image loss|recon|regression|similarity|synthesis", "L1"), ("l2|mse|norm", "L2"),
)  # fmt: skip


def judge(row: Mapping[str, str]) -> tuple[str, str]:
    """(status, how or why) of one method."""
    words = re.split("[,\uff0c]\\s*", row["family"].lower())
    job = JOBS.get((row["section"], row["subsection"]))
    if job is None:
        return "planned", LATER[row["section"]]
    network = next((NETWORKS[w.strip()] for w in words if w.strip() in NETWORKS), None)
    alone = "regression" if network else None  # a network without a word for how it learns
    family = next((here for word, here in FAMILIES if any(word in w for w in words)), alone)
    if "ar" in (w.strip() for w in words):
        family = "autoregressive` in the words of `vq"
    if family is None:
        return "planned", "its network"
    found, without = losses(row["losses"])
    if family == "regression" and "adversarial forms" in found:
        family = "gan"  # whatever its networks are, a critic teaches it
    if family == "gan" and "cycle" in row["losses"].lower():
        family = "cycle"
    told = "Text" in row["subsection"]
    if told and family in ("regression", "cycle"):
        job = "translation"
    how = f"`job: {job}`, `family: {family}`"
    how += f", `network: {{kind: {network}}}`" if network else ""
    how += f", `{TEXT[job]}`; words become a hashed vector, no language model" if told else ""
    how += f"; of its losses: {', '.join(found)}" if found else ""
    return "equivalent", how + (f"; without {', '.join(without)}" if without else "")


def losses(text: str) -> tuple[list[str], list[str]]:
    """(losses here, what has none) of the table's words."""
    found: list[str] = []
    without: list[str] = []
    for word in filter(None, (w.strip() for w in re.split("[,\uff0c]", text))):
        here = next((name for pattern, name in LOSSES if re.search(pattern, word.lower())), None)
        (found if here else without).append(here or word)
    return list(dict.fromkeys(found)), list(dict.fromkeys(without))


def page() -> str:
    with (HERE / "methods.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    judged = [(row, *judge(row)) for row in rows]
    counts = Counter(status for _, status, _ in judged)
    lines = [
        "# Coverage of published methods", "",
        "Made by `python docs/coverage.py` from `methods.csv`. *have*: a recipe is that method. *equivalent*: the same kind of model on the same",
        "job; of its losses those named are here (`families/losses.py`, which a family's options say; denoising, cross-entropy and Dice are a family's own); its own network or tricks are not rebuilt, its",
        "published figures not reproduced; perceptual losses count as lacking, there is no network to judge by. *planned*: what is lacking stands there.", "",
        ", ".join(f"{status}: {counts[status]}" for status in STATUS) + f", of {len(rows)}.", "",
        "| method | section | family | status | how, or what is lacking |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row, status, how in judged:
        section = " / ".join(filter(None, (row["section"], row["subsection"])))
        lines.append(f"| {row['method']} | {section} | {row['family']} | {status} | {how} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "coverage.md").write_text(page())
