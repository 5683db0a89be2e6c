"""Groups of patients: planted gaps are found, none is claimed where there is none, small cells say what they could see."""

import numpy as np

from fabrica.safeguards.fairness import SMALLEST, assess, attributes_of, fairness_check


def _people(n: int, seed: int, gap: float = 0.0) -> tuple[dict[str, np.ndarray], dict[str, list[str | None]]]:
    rng = np.random.default_rng(seed)
    sex = [("f", "m")[k] for k in rng.integers(0, 2, n)]
    site = [("a", "b", "c")[k] for k in rng.integers(0, 3, n)]
    psnr = rng.normal(28, 2, n) - gap * np.array([s == "f" for s in sex])
    return {"psnr": psnr, "mae": 0.1 - psnr / 400 + rng.normal(0, 0.003, n)}, {"sex": sex, "site": site}


def test_a_planted_gap_is_found_and_named() -> None:
    endpoints, attributes = _people(160, 0, gap=2.0)
    found = assess(endpoints, attributes)
    check = fairness_check(found)
    assert check.verdict == "WARN"
    worst = min(found.gaps, key=lambda g: g.p_value)
    assert worst.attribute == "sex"
    assert all(g.p_value > 0.05 for g in found.gaps if g.attribute == "site")
    assert "not served alike" in check.reason


def test_no_gap_is_not_claimed_oftener_than_promised() -> None:
    said = [fairness_check(assess(*_people(120, k), seed=k)).verdict == "WARN" for k in range(100)]
    assert np.mean(said) <= 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5
    check = fairness_check(assess(*_people(120, 2)))
    assert check.verdict == "PASS"
    assert "or more would have shown" in check.reason


def test_intervals_hold_for_all_groups_at_once() -> None:
    missed = 0
    for k in range(60):
        found = assess(*_people(120, 1000 + k), seed=k)
        cells = [c for c in found.cells if c.endpoint == "psnr" and c.interval is not None]
        missed += any(not c.interval[0] <= 28 <= c.interval[1] for c in cells if c.interval)
    assert missed / 60 <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5


def test_small_cells_say_what_gap_they_could_have_seen() -> None:
    endpoints = {"psnr": np.random.default_rng(0).normal(28, 2, 50)}
    sex: list[str | None] = ["f"] * (SMALLEST - 1) + ["m"] * (50 - SMALLEST + 1)
    found = assess(endpoints, {"sex": sex})
    check = fairness_check(found)
    assert check.verdict == "NOT ASSESSABLE"
    assert "f 19, m 31" in check.reason
    assert "could have been seen" in check.reason
    assert all(c.interval is None for c in found.cells)
    assert fairness_check(None, "nobody says anything").reason == "Fairness: nobody says anything."


def test_groups_are_words_and_bands_of_age() -> None:
    values = [{"age": 17.0, "sex": "f", "weight": 60.0, "name": str(k)} for k in range(3)]
    values += [{"age": 39.0, "sex": "m"}, {"age": 40.0}, {"age": 80.0, "sex": "f"}] + [
        {"name": f"x{k}"} for k in range(20)
    ]
    found = attributes_of(values)
    assert set(found) == {"age", "sex"}  # a number is no group, nor is what everybody has for himself
    assert found["age"][:6] == ["under 18"] * 3 + ["18 to 39", "40 to 64", "65 and over"]
    assert found["sex"][4] is None


def test_patients_without_a_figure_are_left_out_of_it() -> None:
    endpoints, attributes = _people(120, 3, gap=2.0)
    endpoints["psnr"][:20] = np.nan
    found = assess(endpoints, attributes)
    counted = sum(c.patients for c in found.cells if c.endpoint == "psnr" and c.attribute == "sex")
    assert counted == 100


def test_small_groups_that_are_all_alike_promise_no_gap() -> None:
    found = assess({"copied": np.zeros(30)}, {"sex": ["F", "M", "M"] * 10})
    assert not found.gaps
    assert found.unseen == (
        "copied by sex (F 10, M 20): all are alike, and too few to tell which gap would have shown",
    )
