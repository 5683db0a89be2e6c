"""Lesions of stated place, size and contrast: MS foci, tumours with oedema, infarcts, and the caps of old age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...rng import Rng
from .anatomy import Anatomy, Patient, healthy_fractions, tumour_place
from .tissue import INDEX

OUTSIDE = -99.0


def lesion_fields(patient: Patient, rng: Rng, head: Anatomy) -> dict[str, Tensor]:
    """Signed distances in mm, positive inside: "lesion" and "zone" (oedema). Places depend on the seed, sizes on time
    too.
    """
    shape = head.fields["depth"].shape
    none = torch.full(shape, OUTSIDE)
    makers = {"ms": _foci, "tumour": _tumour, "stroke": _stroke}
    if patient.disease not in makers:
        return {"lesion": none, "zone": none}
    lesion, zone = makers[patient.disease](patient, rng.child("lesion"), head)
    if patient.lesion_volume_ml is not None:
        host = _host(healthy_fractions(patient, head.fields, head.warp, head.spacing), patient.disease)
        shift = _shift_for_volume(lesion, host, head.spacing, patient.lesion_volume_ml)
        lesion, zone = lesion + shift, zone + shift
    return {"lesion": lesion, "zone": zone}


def _ragged(head: Anatomy) -> Tensor:
    return 0.5 * head.fields["fine1"] + 0.7 * head.fields["mid1"]


HOSTS = {  # tissue that a lesion replaces
    "ms": ("wm", "gm", "oedema"),
    "tumour": ("wm", "gm", "oedema", "csf"),
    "stroke": ("wm", "gm"),
}


def _host(fractions: Tensor, disease: str) -> Tensor:
    return fractions[[INDEX[t] for t in HOSTS[disease]]].sum(0)


def _shift_for_volume(lesion: Tensor, host: Tensor, spacing: float, wanted_ml: float) -> float:
    """mm to add to a signed distance so that the soft mask holds the volume asked for (bisection)."""
    near = lesion > -45
    distance, room = lesion[near], host[near]
    low, high = -60.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        volume = float((torch.sigmoid((distance + middle) / 0.5) * room).double().sum()) * spacing**3 / 1000
        low, high = (middle, high) if volume < wanted_ml else (low, middle)
    return (low + high) / 2


def _foci(patient: Patient, rng: Rng, head: Anatomy) -> tuple[Tensor, Tensor]:
    """Demyelinated foci, two thirds around the ventricles and stretched away from them (Dawson's fingers)."""
    f, step = head.fields, head.spacing
    allowed = (f["depth"] > 9) & (f["ventricle"] > 2) & (head.warp[2] > -20) & (f["cerebellum"] < 0.1)
    candidates = allowed.nonzero()
    inside = torch.full(f["depth"].shape, OUTSIDE)
    ragged = _ragged(head)
    count = int(16 + 14 * float(rng.child("count").uniform()[0]) + 2.5 * patient.wear)
    for i in range(count):
        stream = rng.child("focus", i)
        periventricular = i % 3 > 0
        draws = stream.uniform(26)[0]
        picks = candidates[(draws[2 : 26 if periventricular else 4] * len(candidates)).long()]
        centre = picks[int(f["ventricle"][picks[:, 0], picks[:, 1], picks[:, 2]].argmin())]
        radius = 1.3 + 2.6 * float(draws[0]) ** 2 + periventricular
        stretch = (1.5, 0.9, 1.1) if periventricular else (1.0, 1.2, 1.1)
        reach = int(22 / step)
        window = tuple(slice(max(0, int(k) - reach), int(k) + reach + 1) for k in centre)
        axes = [
            torch.arange(s.start, min(s.stop, n)) - int(k) for s, n, k in zip(window, inside.shape, centre, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * step
        distance = (grid / torch.tensor(stretch)).norm(dim=-1)
        inside[window] = torch.maximum(inside[window], radius * (1 + 0.3 * ragged[window]) - distance)
    return inside, torch.full_like(inside, OUTSIDE)


def _tumour(patient: Patient, rng: Rng, head: Anatomy) -> tuple[Tensor, Tensor]:
    """Core and rim around one place; the oedema reaches further and follows white matter only."""
    centre, radius = tumour_place(patient, Rng([patient.seed]).child("anatomy"))
    gap = head.warp.movedim(0, -1) - torch.tensor(centre)
    distance = (gap / torch.tensor([1.0, 1.15, 1.0])).norm(dim=-1)
    ragged = _ragged(head)
    return radius * (1 + 0.28 * ragged) - distance, radius * (1.75 + 0.45 * ragged) - distance


def _stroke(patient: Patient, rng: Rng, head: Anatomy) -> tuple[Tensor, Tensor]:
    """A territory like that of the middle cerebral artery."""
    u = rng.child("place").uniform(2)[0].tolist()
    centre = torch.tensor([42.0 if u[0] < 0.5 else -42.0, 30 * u[1] - 22, 18.0])
    distance = ((head.warp.movedim(0, -1) - centre) / torch.tensor([24.0, 30.0, 26.0])).norm(dim=-1)
    lesion = (1 + 0.2 * head.fields["mid2"] + 0.2 * head.fields["slow"] - distance) * 24
    return lesion, torch.full_like(lesion, OUTSIDE)


def paint(fractions: Tensor, patient: Patient, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace healthy by diseased fractions in place; returns the soft masks (fractions of a voxel)."""
    age, a, ventricle = patient.age + patient.years, patient.atrophy, v["ventricle"]
    caps = torch.sigmoid((0.4 + 2.4 * a + 1.2 * v["fine1"] + 0.8 * v["slow"] - ventricle) / 0.6) * (ventricle > -1)
    _replace(fractions, "oedema", 0.5 * caps * min(1.0, max(0.0, (age - 25) / 45)), ("wm",))
    strength = patient.lesion_contrast

    def inside(name: str, edge: float | Tensor = 0.0) -> Tensor:
        return torch.sigmoid((v[name] - edge) / 0.5)

    if patient.disease == "ms":
        mask = inside("lesion")
        brain = _host(fractions, "ms")
        _replace(fractions, "ms", mask * 0.9 * strength, HOSTS["ms"])
        return {"lesion": mask * brain}
    if patient.disease == "tumour":
        brain = _host(fractions, "tumour")
        _replace(fractions, "oedema", inside("zone") * strength, ("wm",))
        _replace(fractions, "enhancing", inside("lesion") * strength, ("wm", "gm", "oedema", "csf", "vessel"))
        _replace(fractions, "necrosis", inside("lesion", 4.0 + 0.8 * v["mid2"]), ("enhancing",))
        return {"lesion": inside("lesion") * brain, "oedema": inside("zone") * (1 - inside("lesion")) * brain}
    if patient.disease == "stroke":
        brain = _host(fractions, "stroke")
        _replace(fractions, "infarct", inside("lesion") * strength, HOSTS["stroke"])
        return {"lesion": inside("lesion") * brain}
    return {"lesion": torch.zeros_like(ventricle)}


def _replace(fractions: Tensor, name: str, amount: Tensor, over: Sequence[str]) -> None:
    """Turn that share of these tissues into another; the sum of fractions stays."""
    for tissue in over:
        part = amount * fractions[INDEX[tissue]]
        fractions[INDEX[tissue]] -= part
        fractions[INDEX[name]] += part
