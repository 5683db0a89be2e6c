"""What was made lately: within its budget, and the same as what is made anew."""

import torch

from fabrica.data.virtual import anatomy, scan
from fabrica.data.virtual.anatomy import Patient
from fabrica.data.virtual.kept import Kept


def test_the_oldest_go_and_the_last_stays() -> None:
    made: list[str] = []

    def make(name: str, size: int) -> str:
        made.append(name)
        return name * size

    kept = Kept[str](10, len)
    for name in ("a", "b", "a", "c"):
        assert kept.get(name, lambda n=name: make(n, 4)) == name * 4
    assert made == ["a", "b", "c"]
    kept.get("a", lambda: make("a", 4))  # asked for later than b
    kept.get("b", lambda: make("b", 4))
    assert made == ["a", "b", "c", "b"]
    assert kept.get("large", lambda: make("large", 4)) == "large" * 4
    assert kept.get("large", lambda: make("large", 4)) == "large" * 4
    assert made[-1] == "large"
    assert made.count("large") == 1


def test_a_head_that_is_kept_is_the_head_made_anew() -> None:
    """Its anatomy serves other contrasts, its random fields other visits: not a bit changes."""
    first, later = Patient(3, disease="ms"), Patient(3, disease="ms", years=2.0)
    for _ in range(2):
        scan.simulate(first, "A", ("T1w",), 4)  # now known
    quick = [scan.simulate(p, "A", ("T1w", "FLAIR"), 4) for p in (first, later)]
    anew = []
    for patient in (first, later):
        scan.ANATOMIES = Kept(scan.ANATOMIES.most_bytes, scan._anatomy_bytes)
        anatomy._fields.cache_clear()
        anew.append(scan.simulate(patient, "A", ("T1w", "FLAIR"), 4))
    for known, new in zip(quick, anew, strict=True):
        assert all(torch.equal(known.images[name], new.images[name]) for name in new.images)
        assert torch.equal(known.fractions, new.fractions)
        assert torch.equal(known.masks["lesion"], new.masks["lesion"])
