"""Which of 175 published methods Fabrica can be told to do: reads methods.csv, writes coverage.md. `python docs/methods.py`"""

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
    "Image Reconstruction": "critics of restorers, several images at once, films",
    "Super-Resolution": "critics of restorers, finer pixels of films",
    "Treatment Planning and Dynamic Intervention": "breathing over time, video of a scope",
    "Disease Progression Prediction": "the lesion mask of a visit to come, limits of biology",
    "Foundation Models": "masked images at scale, networks of whole slides, published weights of its own",
}
WHY: Mapping[str, str] = {  # of methods that are built for something else than their neighbours
    "VQGAN_TATrans (2024)": "a tumour to come, by a transformer over words of a codec",
    "PC-DDPM (2024)": "a volume of the moment from a film of few planes",
    "DiffTumor (2024)": "tumours painted in the codes of a codec",
    "PASTA (2025)": "tumours painted in the codes of a codec",
    "SADM (2023)": "volumes of earlier visits read one after the other by attention",
}
CHAINS: Mapping[str, str] = {  # method -> the stages that do it
    "Moya-Sáez et al. (2022)": "stages: `job: translation`, `family: regression`, then `job: survival` of what was drawn; of its losses: L1",
}
FAMILIES: tuple[tuple[str, str], ...] = (  # word in the table -> family here
    ("diffusion", "diffusion"), ("gan", "gan"), ("vae", "vae"), ("cnn", "regression"), ("mamba", "regression"),
)  # fmt: skip
NETWORKS: Mapping[str, str] = {
    "transformer": "transformer",
    "mamba": "state-space",
}  # word in the table -> kind of network here
LOSSES: tuple[tuple[str, str], ...] = (  # pattern -> the loss here
    ("\\bdc loss|kspace loss|k-space loss", "data consistency"), ("diffusion|noise loss", "denoising"), ("cycle", "L1 of the way back"), ("identity", "L1 of its own kind"),
    ("feature matching", "feature matching"), ("contrastive|infonce", "contrastive"), ("adversarial|gan|logistic", "adversarial forms"),
    ("tv|smooth", "total variation"), ("structure-cons|structural cons|shape cons", "edge agreement"), ("ssim|structural loss", "structural"), ("freq", "frequency"), ("gradient d|gradient l", "gradient difference"),
    ("kl", "KL"), ("quantization|codebook", "finite codes instead"), ("charbonnier|robust", "Charbonnier"), ("dice|bce|\\bce loss|cross-e", "cross-entropy and Dice"),
    ("l1|mae|image loss|recon|regression|similarity|synthesis", "L1"), ("l2|mse|norm", "L2"),
)  # fmt: skip
ADDED: Mapping[str, str] = {  # of these, what `losses:` adds to a family that compares pairs, by its name there
    "L1": "absolute", "L2": "squared", "Charbonnier": "charbonnier", "frequency": "frequency", "structural": "structural",
    "gradient difference": "gradient difference", "total variation": "total variation",
}  # fmt: skip
OWN: Mapping[str, frozenset[str]] = {  # what a family is taught by without being told
    "diffusion": frozenset({"denoising"}),
    "regression": frozenset({"cross-entropy and Dice"}),
    "gan": frozenset({"adversarial forms", "feature matching", "cross-entropy and Dice"}),
    "cycle": frozenset({"adversarial forms", "L1 of the way back", "L1 of its own kind", "edge agreement"}),
    "vae": frozenset({"KL", "L1", "frequency", "cross-entropy and Dice"}),
    "autoregressive": frozenset({"cross-entropy and Dice"}),
    "vq": frozenset({"finite codes instead", "L1", "frequency"}),
    "unrolled": frozenset({"Charbonnier", "data consistency"}),
}
CRITICS = frozenset({"adversarial forms", "feature matching"})  # of a codec, by its option `adversarial`


APPLICATIONS: tuple[tuple[str, str], ...] = (  # what a method is for -> the job that does it, where its section does not say
    ("^radiation dose prediction$", "dose"), ("^4d mri temporal super|^4d dynamic mri synthesis$", "interpolation"),
    ("^2dt cardiac mr synthesis$|^echocardiography video", "cine"),
    ("^longitudinal mri |brain tumor growth|alzheimer's disease progression|brain neurodegenerative|^disease progression prediction$",
     "progression"),
)  # fmt: skip
READ = "`text: {report: {words: 256, length: 32}}`, read by a transformer that is trained with the images, by cross-attention"
FOUNDATION: Mapping[str, str] = {  # method -> how the same kind of model is asked for here
    "RoentGen (2024)": f"`job: synthesis`, `family: diffusion` in the codes of `vae`, {READ}; of its losses: denoising",
    "MINIM (2024)": f"`job: synthesis`, `by: {{modality: [CT, CXR]}}`, `family: diffusion`, {READ}; of its losses: denoising",
    "MONET (2024)": "`job: representation`, `text: {report: {words: 256, length: 32}}`, `family: contrastive`, `form: infonce`; of its losses: contrastive; without cross-entropy",
    "MaCo (2024)": "`job: representation`, `text: {report: {words: 256, length: 32}}`, `family: contrastive`, `form: infonce`, `hide: 0.5`; of its losses: contrastive; without MAE loss",
}
READERS = ("diffusion",)  # families whose network reads texts
ACQUISITIONS: Mapping[str, str] = {"CT Reconstruction": "ct", "PET Reconstruction": "pet", "MRI reconstruction": "mr"}
BEYOND = (
    r"\bar\b|gan|vae|federated|cine|bimodal|pet-mri|jsmoco|multi-contrast"  # what a restorer of one slice does not do
)
PLAIN = r"cnn|transformer|mamba"  # networks taught on pairs of raw data and images


def restored(row: Mapping[str, str]) -> str | None:
    """How a diffusion prior is drawn in agreement with what was measured, or a network is taught to agree with it; None
    for methods that do otherwise.
    """
    words = f"{row['method']} {row['family']} {row['application']}".lower()
    taught = re.search(PLAIN, row["family"].lower()) is not None
    if re.search(BEYOND, words) or not (taught or "diffusion" in row["family"].lower()):
        return None
    prior = "`family: diffusion`, `sampler: posterior`; of its losses: denoising"
    if "diffusion" not in row["family"].lower():
        prior = unrolled(row)
    if (acquisition := ACQUISITIONS.get(row["subsection"])) is not None:
        angle = ", degrees: 120" if "limited-angle" in words else ""
        return f"`job: reconstruction`, `acquisition: {{name: {acquisition}{angle}}}`, {prior}"
    if row["subsection"] == "Spatial super-resolution":
        return f"`job: enhancement`, `factor: [2, 2]`, {prior}"
    return None


def unrolled(row: Mapping[str, str]) -> str:
    """The network of such a method between steps of agreement with the data, which some of them do not have."""
    found, without = losses(row["losses"])
    taken, more = taken_by("unrolled", None, found, "reconstruction", row["losses"])
    without = [*(n for n in found if n not in taken), *without]
    kind = next((kind for word, kind in NETWORKS.items() if word in row["family"].lower()), None)
    how = "`family: unrolled`" + "".join(f", `{option}`" for option in more)
    how += f", `network: {{kind: {kind}}}`" if kind else ""
    return (
        how
        + (f"; of its losses: {', '.join(taken)}" if taken else "")
        + (f"; without {', '.join(without)}" if without else "")
    )


def judge(row: Mapping[str, str]) -> tuple[str, str]:
    """(status, how or why) of one method."""
    if (how := restored(row)) is not None:
        return "equivalent", how
    if row["method"] in FOUNDATION:
        return "equivalent", FOUNDATION[row["method"]]
    if row["method"] in CHAINS:
        return "equivalent", CHAINS[row["method"]]
    if row["method"] in WHY:
        return "planned", WHY[row["method"]]
    words = re.split("[,\uff0c]\\s*", row["family"].lower())
    asked = row["application"].lower().replace("\u2010", "-")
    job = JOBS.get((row["section"], row["subsection"])) or next(
        (j for p, j in APPLICATIONS if re.search(p, asked)), None
    )
    if job is None:
        return "planned", LATER[row["section"]]
    network = next((NETWORKS[w.strip()] for w in words if w.strip() in NETWORKS), None)
    alone = "regression" if network else None  # a network without a word for how it learns
    kinds = [here for word, here in FAMILIES if any(word in w for w in words)]
    family, codec = next(iter(kinds), alone), None
    if "ar" in (w.strip() for w in words):
        family, codec = "autoregressive", "vq"
    elif "diffusion" in kinds and "vae" in kinds:
        codec = "vae"
    elif {"gan", "vae"} <= set(kinds):
        family = "vae"
    if family is None:
        return "planned", "its network"
    if codec and job in ("cine", "interpolation"):
        return "planned", "codes of films"
    found, without = losses(row["losses"])
    if family == "regression" and "adversarial forms" in found:
        family = "gan"  # whatever its networks are, a critic teaches it
    if family == "gan" and "cycle" in row["losses"].lower():
        family = "cycle"
    told = "Text" in row["subsection"]
    if told and family in ("regression", "cycle"):
        job = "translation"
    taken, more = taken_by(family, codec, found, job, f"{row['method']} {row['losses']}")
    without = [*(n for n in found if n not in taken), *without]
    if without and not taken:
        return "planned", f"its losses: {', '.join(without)}"
    place = {"vq": " in the words of `vq`", "vae": " in the codes of `vae`"}
    how = f"`job: {job}`, `family: {family}`" + (place[codec] if codec else "")
    how += "".join(f", `{option}`" for option in more)
    how += f", `network: {{kind: {network}}}`" if network else ""
    if told:
        how += f", {READ}" if family in READERS else f", `{TEXT[job]}`; words become a hashed vector, no language model"
    how += f"; of its losses: {', '.join(taken)}" if taken else ""
    return "equivalent", how + (f"; without {', '.join(without)}" if without else "")


def taken_by(family: str, codec: str | None, found: list[str], job: str, text: str) -> tuple[list[str], list[str]]:
    """(losses of these that the family takes here, what a recipe says for it)."""
    own, coder = OWN[family], codec or (family if family in ("vae", "vq") else None)
    own = own | (OWN[codec] if codec else frozenset()) | (CRITICS if coder else frozenset())
    pairs = family in ("regression", "unrolled") or (family == "gan" and job == "translation")
    added = [ADDED[n] for n in found if pairs and n in ADDED]
    more = ["losses: {" + ", ".join(f"{n}: 1" for n in added) + "}"] if added else []
    if family == "gan" and "wgan" in text.lower():
        more.append("adversarial: wasserstein")
    if coder and CRITICS & set(found):
        more.append("adversarial: 0.1")
    return [n for n in found if n in own or (pairs and n in ADDED)], more


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
        "Made by `python docs/methods.py` from `methods.csv`. *have*: a recipe is that method. *equivalent*: the same kind of model on the same",
        "job; of its losses those named are the family's own here or added by the options beside it; its own network or tricks are not rebuilt, its",
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
