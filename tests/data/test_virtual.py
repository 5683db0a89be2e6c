"""Simulated patients: positive Jacobians, fractions that sum to one, the same bits, atrophy, lesions as asked."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from fabrica.data.virtual import CONTRASTS, Patient, VirtualCohort, anatomy, simulate, template
from fabrica.data.virtual.fields import blur, exponential, jacobian_determinant, noise, points
from fabrica.data.virtual.patients import findings, follow_up, volumes
from fabrica.data.virtual.tissue import MR, NAMES, SCANNERS, TISSUES, mixing_matrix, signal
from fabrica.rng import Rng


@pytest.fixture(scope="module")
def head():
    return simulate(Patient(seed=5, age=60, disease="ms"), spacing_mm=2)


def test_the_template_is_the_one_that_was_looked_at() -> None:
    for kind, digest in template.HASHES.items():
        assert template.digest(kind) == digest, f"nilearn's {kind} map changed: every simulated patient changes with it"


def test_jacobian_is_positive_at_one_millimetre() -> None:
    for seed, years in ((5, 6.0), (3, 0.0)):
        patient = Patient(seed=seed, age=75, disease="tumour", severity=2.5, years=years)
        made = anatomy.anatomy(patient, Rng([patient.seed]).child("anatomy"), 2.0)
        fine = torch.nn.functional.interpolate(made.warp[None], scale_factor=2, mode="trilinear", align_corners=True)[0]
        spacing = 2.0 * (made.warp.shape[1] - 1) / (fine.shape[1] - 1)
        outer = torch.nn.functional.interpolate(
            made.fields["outer"][None, None], size=fine.shape[1:], mode="trilinear", align_corners=True
        )[0, 0]
        determinant = jacobian_determinant(fine.movedim(0, -1), spacing)
        assert float(determinant[outer > -4].min()) > 0
        assert made.smallest_jacobian > 0


def test_fractions_are_fractions(head) -> None:
    assert float(head.fractions.min()) >= -1e-6
    assert float(head.fractions.sum(0).max()) <= 1 + 1e-5
    patient = Patient(seed=5, age=60, disease="tumour")
    made = anatomy.anatomy(patient, Rng([5]).child("anatomy"), 4.0)
    fractions = anatomy.healthy_fractions(patient, made.fields, made.warp, 4.0)
    assert len(fractions) == len(NAMES)
    assert float(fractions.min()) >= -1e-5
    inside = fractions.sum(0)[made.fields["outer"] > 2]
    torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-4, rtol=0)
    assert float(fractions.sum(0).max()) <= 1 + 1e-4


def _digest(threads: int) -> str:
    torch.set_num_threads(threads)
    try:
        return _digest_now()
    finally:
        torch.set_num_threads(1)


def _digest_now() -> str:
    made = simulate(Patient(seed=9, age=50, disease="ms"), "B", ["T1w", "FLAIR", "CT", "PET"], 2)
    return hashlib.sha256(
        b"".join(v.numpy().tobytes() for v in made.images.values()) + made.fractions.numpy().tobytes()
    ).hexdigest()


def test_the_same_seed_gives_the_same_bits_whatever_the_threads() -> None:
    assert _digest(1) == _digest(2)
    other = simulate(Patient(seed=10, age=50, disease="ms"), "B", ["T1w"], 2)
    mine = simulate(Patient(seed=9, age=50, disease="ms"), "B", ["T1w"], 2)
    assert not torch.equal(mine.images["T1w"], other.images["T1w"])


def test_a_contrast_does_not_depend_on_its_company() -> None:
    patient = Patient(seed=4, age=40)
    alone, all_of_them = simulate(patient, contrasts=["T2w"], spacing_mm=4), simulate(patient, spacing_mm=4)
    torch.testing.assert_close(alone.images["T2w"], all_of_them.images["T2w"], rtol=1e-5, atol=1e-5)


def test_atrophy_is_monotone_in_time() -> None:
    patient = Patient(seed=6, age=70, severity=2.0)
    brains, water = [], []
    for years in (0.0, 2.0, 4.0, 8.0):
        found = volumes(simulate(follow_up(patient, years), contrasts=[], spacing_mm=2))
        brains.append(found["grey_ml"] + found["white_ml"])
        water.append(found["csf_ml"])
    assert all(a > b for a, b in itertools.pairwise(brains)), brains
    assert all(a < b for a, b in itertools.pairwise(water)), water
    yearly = (brains[0] - brains[2]) / brains[0] / 4
    assert 0.002 < yearly < 0.03


def test_covariates_have_known_effects() -> None:
    young, old = (volumes(simulate(Patient(seed=7, age=a), contrasts=[], spacing_mm=2)) for a in (30.0, 80.0))
    assert old["csf_ml"] > 1.2 * young["csf_ml"]
    woman, man = (volumes(simulate(Patient(seed=7, age=40, sex=s), contrasts=[], spacing_mm=2)) for s in "FM")
    total = [v["csf_ml"] + v["grey_ml"] + v["white_ml"] for v in (woman, man)]
    assert total[1] > 1.05 * total[0]


@pytest.mark.parametrize("disease", ["ms", "tumour", "stroke"])
@pytest.mark.parametrize("wanted", [5.0, 20.0])
def test_lesion_volume_is_as_asked(disease: str, wanted: float) -> None:
    made = simulate(Patient(seed=8, age=55, disease=disease, lesion_volume_ml=wanted), contrasts=[], spacing_mm=2)
    assert volumes(made)["lesion_ml"] == pytest.approx(wanted, rel=0.15)


def test_lesion_contrast_is_as_asked() -> None:
    """The contrast against the same head without lesions is proportional to what was asked."""
    found = []
    for contrast in (0.0, 0.5, 1.0):
        patient = Patient(seed=8, age=35, disease="ms", lesion_volume_ml=10.0, lesion_contrast=contrast)
        made = simulate(patient, contrasts=["FLAIR"], spacing_mm=2)
        core = made.masks["lesion"] > 0.9
        found.append(float(made.images["FLAIR"][core].mean()))
    assert found[1] - found[0] == pytest.approx((found[2] - found[0]) / 2, rel=0.1)
    assert found[2] - found[0] > 0.3


def test_tumours_push() -> None:
    """Mass effect: the brain around a tumour is displaced, not only replaced."""
    with_tumour, without = (
        anatomy.anatomy(Patient(seed=3, disease=d), Rng([3]).child("anatomy"), 4.0).warp for d in ("tumour", "none")
    )
    assert float((with_tumour - without).norm(dim=0).max()) > 1.0


def test_units_and_anatomy_of_the_images(head) -> None:
    assert set(head.images) == set(CONTRASTS)
    white = head.fractions[2] > 0.95
    csf = head.fractions[0] > 0.95
    for name in MR:
        assert float(head.images[name][white].mean()) == pytest.approx(1, abs=0.15)
    assert float(head.images["T1w"][csf].mean()) < 0.4
    assert float(head.images["T2w"][csf].mean()) > 2
    assert float(head.images["FLAIR"][csf].mean()) < 0.5
    assert float(head.images["CT"].min()) >= -1024
    assert float(head.images["CT"][white].mean()) == pytest.approx(28, abs=6)
    assert float(head.images["CT"].max()) > 700
    assert 3 < float(head.images["PET"][head.fractions[1] > 0.95].mean()) < 9


def test_signal_equation() -> None:
    """Without inversion and with a long TR only T2 decay is left; at the null TI the signal vanishes."""
    from fabrica.data.virtual.tissue import PulseSequence

    t1, t2, density = (np.array([v]) for v in (1000.0, 100.0, 0.8))
    assert signal(PulseSequence(1e6, 50), t1, t2, density)[0] == pytest.approx(0.8 * np.exp(-0.5))
    assert signal(PulseSequence(1e6, 0, 1000 * np.log(2)), t1, t2, density)[0] == pytest.approx(0, abs=1e-9)
    rows = mixing_matrix(SCANNERS["A"], ["T1w"], 0.0)
    assert rows.shape == (5, len(TISSUES))
    assert float(rows[0, NAMES.index("wm")]) == pytest.approx(1)


def test_fields() -> None:
    field = noise(Rng([1]), (32, 40, 36), 2.0, 16.0)
    assert float(field.std()) == pytest.approx(1, abs=0.15)
    assert abs(float(field.mean())) < 0.05
    velocity = torch.stack([2 * noise(Rng([i]), (12, 12, 12), 6.0, 40.0, band=None) for i in range(3)])
    there, back = exponential(velocity, 6.0), exponential(-velocity, 6.0)
    here = points((12, 12, 12), (0.0, 0.0, 0.0), 6.0)
    assert float(jacobian_determinant(here + there.movedim(0, -1), 6.0)[2:-2, 2:-2, 2:-2].min()) > 0
    assert float((there + back)[:, 3:-3, 3:-3, 3:-3].abs().mean()) < 0.4
    spike = torch.zeros(9, 9, 9)
    spike[4, 4, 4] = 1
    assert float(blur(spike, 1.0).sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(blur(torch.ones(5, 5, 5), 0.7), torch.ones(5, 5, 5))


def test_cohorts() -> None:
    plan = VirtualCohort(patients=6, seed=3, spacing_mm=4, visits=2, disease="ms")
    members = plan.cohort().members
    assert len(members) == 12
    assert [m.name for m in plan.cohort().members] == [m.name for m in members]
    assert members[1].days == pytest.approx(365.25)
    case = members[0].load(["T1w", "lesion", "tissue", "brain_mask"])
    assert set(case.images) == {"T1w", "lesion", "tissue", "brain_mask"}
    assert case.images["lesion"].meaning.kind == "label"
    assert set(case.images["tissue"].data.unique().tolist()) == {0, 1, 2, 3}
    assert not case.images["T1w"].data[case.images["brain_mask"].data == 0].any()
    assert "lesions" in str(case.values["findings"])
    affine = case.images["T1w"].affine.numpy()
    head_top = affine @ [case.images["T1w"].data.shape[1] - 1, 0, 0, 1]
    assert head_top[2] > affine[2, 3]  # z runs to the head
    whole = VirtualCohort(patients=1, seed=3, spacing_mm=4, skull=True, planes=[5, 9]).cohort().members[0].load(["CT"])
    assert whole.images["CT"].data.shape[1] == 4
    assert whole.images["CT"].meaning.unit == "HU"


def test_words_follow_the_truth(head) -> None:
    assert "white-matter lesions" in findings(Patient(disease="ms"), head)
    assert findings(Patient(disease="none", age=25), head) == "No focal lesion. Atrophy: no."


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="expected scanner"):
        simulate(Patient(), "C")
    with pytest.raises(ValueError, match="spacing 1, 2, 3 or 4"):
        simulate(Patient(), spacing_mm=5)
    with pytest.raises(ValueError, match="contrasts among"):
        simulate(Patient(), contrasts=["T9"])
