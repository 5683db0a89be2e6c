"""Do the tests keep their level and the intervals their coverage? Simulated, with the binomial band of the count.

    python benchmarks/statistics_simulated.py [--repetitions 400]

Writes results/statistics.md. Level: share of p < .05 where there is nothing to find. Coverage: share of 95 % intervals that
hold the truth. The band holds 95 % of such shares for a procedure that is exact; a level below it is conservative.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from fabrica.evaluate import feature, statistics, task
from fabrica.evaluate.embedding import Picture
from fabrica.evaluate.featurewise import feature_differences
from fabrica.evaluate.readers import forced_choice, obuchowski_rockette, wilson

Draw = np.random.Generator
OUTSIDE = (
    "Outside, and what is done about it: the published intervals of a single area (DeLong) and of the intraclass correlation (Shrout and",
    'Fleiss) hold too little; `convention="logit"` and `"generalised"` are in the band, and reports use them. Obuchowski-Rockette with three',
    "readers rests on few degrees of freedom and finds a difference a little too often; with six it does not. Conservative ones lose power,",
    "not honesty: a forced choice is never narrower than guessing.",
)
Procedure = Callable[[Draw, int], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    n = parser.parse_args().repetitions
    lines = [
        "# Level and coverage of every test and interval", "",
        f"`python benchmarks/statistics_simulated.py --repetitions {n}`. Nominal: level .05, coverage .95.", "",
        "| procedure | kind | found | band of an exact procedure | verdict |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (kind, procedure) in PROCEDURES.items():
        rate = float(np.mean([procedure(np.random.default_rng([i, len(name)]), i) for i in range(n)]))
        nominal = 0.05 if kind == "level" else 0.95
        low, high = (float(stats.binom.ppf(q, n, nominal)) / n for q in (0.025, 0.975))
        conservative = rate < low if kind == "level" else rate > high
        verdict = "in the band" if low <= rate <= high else "conservative" if conservative else "**outside**"
        lines.append(f"| {name} | {kind} | {rate:.3f} | {low:.3f} to {high:.3f} | {verdict} |")
        print(lines[-1], flush=True)
    lines += ["", *OUTSIDE]
    (Path(__file__).parent / "results" / "statistics.md").write_text("\n".join(lines) + "\n")


def names(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def holds(interval: tuple[float, float] | None, truth: float) -> bool:
    return interval is not None and interval[0] <= truth <= interval[1]


def mean_of(n: int) -> Procedure:
    """A skewed quantity; truth 1."""
    return lambda rng, seed: holds(statistics.interval(rng.exponential(1, n), names(n), seed=seed).interval, 1.0)


def paired(n: int) -> Procedure:
    return lambda rng, seed: significant(
        statistics.paired_test(rng.exponential(1, n), rng.exponential(1, n), names(n), seed=seed).p_value
    )


def equivalence(rng: Draw, seed: int) -> bool:
    """The true difference is the margin."""
    return significant(statistics.equivalence_test(rng.normal(0.5, 1, 30), np.zeros(30), names(30), margin=0.5).p_value)


def family(rng: Draw, seed: int) -> bool:
    """Fifteen metrics that hang together; any win is one too many."""
    shared = rng.normal(0, 1, (25, 1))
    return bool(statistics.max_t(shared + 0.4 * rng.normal(0, 1, (25, 15)), seed=seed).min() < 0.05)


def holm(rng: Draw, seed: int) -> bool:
    return bool(statistics.holm(rng.random(15)).min() < 0.05)


def readers(rng: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = (np.arange(120) % 3 == 0).astype(int)
    base = rng.normal(0, 1, 120) + labels
    return base + rng.normal(0, 1, 120), base + rng.normal(0, 1, 120), labels


def area(rng: Draw, seed: int) -> bool:
    scores, _, labels = readers(rng)
    return holds(task.auc_delong(scores, labels).interval, float(stats.norm.cdf(0.5)))


def area_by_logit(rng: Draw, seed: int) -> bool:
    scores, _, labels = readers(rng)
    return holds(task.auc_delong(scores, labels, convention="logit").interval, float(stats.norm.cdf(0.5)))


def areas(rng: Draw, seed: int) -> bool:
    return significant(task.auc_delong_paired(*readers(rng)).p_value)


def concordance(rng: Draw, seed: int) -> bool:
    base = rng.normal(0, 1, 60)
    found = task.concordance_correlation(base + rng.normal(0, 0.5, 60), base + 0.3 + rng.normal(0, 0.5, 60))
    return holds(found.interval, 2 / (2.5 + 0.09))


def intraclass(rng: Draw, seed: int) -> bool:
    """Subjects of variance 4, raters .5, rest 1: 4 / 5.5."""
    ratings = 2 * rng.normal(0, 1, (30, 1)) + 0.5**0.5 * rng.normal(0, 1, (1, 5)) + rng.normal(0, 1, (30, 5))
    return holds(task.intraclass_correlation(ratings).interval, 4 / 5.5)


def generalised(rng: Draw, seed: int) -> bool:
    ratings = 2 * rng.normal(0, 1, (30, 1)) + 0.5**0.5 * rng.normal(0, 1, (1, 5)) + rng.normal(0, 1, (30, 5))
    return holds(task.intraclass_correlation(ratings, convention="generalised").interval, 4 / 5.5)


def study(rng: Draw, count: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratings (2 modalities, readers, 100 cases): cases, readers and their pairs vary; the second modality adds `gain`."""
    labels = (np.arange(100) % 2).astype(int)
    case = rng.normal(0, 0.6, 100)
    modality_case, reader_case = rng.normal(0, 0.4, (2, 1, 100)), rng.normal(0, 0.4, (1, count, 100))
    skill = (
        1.5 + gain * np.array([1.0, 0.0])[:, None] + rng.normal(0, 0.15, (1, count)) + rng.normal(0, 0.1, (2, count))
    )
    return skill[:, :, None] * labels + case + modality_case + reader_case + rng.normal(
        0, 0.57, (2, count, 100)
    ), labels


def modalities(count: int) -> Procedure:
    """Alike: readers who differ, and differ between modalities by chance alone."""
    return lambda rng, seed: significant(obuchowski_rockette(*study(rng, count, 0.0)).p_value)


def guesses(count: int) -> Procedure:
    """Readers of 60 pairs whose skill varies about 60 %."""

    def covers(rng: Draw, seed: int) -> bool:
        share = np.clip(rng.normal(0.6, 0.08, count), 0.01, 0.99)
        right = (rng.random((count, 60)) < share[:, None]).astype(float)
        return holds(forced_choice(right.ravel(), [f"r{i}" for i in range(count) for _ in range(60)]).interval, 0.6)

    return covers


def guessing(count: int) -> Procedure:
    def found(rng: Draw, seed: int) -> bool:
        right = (rng.random((count, 60)) < 0.5).astype(float)
        names_of = [f"r{i}" for i in range(count) for _ in range(60)]
        return significant(forced_choice(right.ravel(), names_of).p_value)

    return found


def one_reader(rng: Draw, seed: int) -> bool:
    share = rng.uniform(0.05, 0.95)
    return holds(wilson(int(rng.binomial(40, share)), 40), share)


def one_by_one(rng: Draw, seed: int) -> bool:
    """Radiomic features of two groups of patients from one source; any difference that survives the false discovery rate is one too many."""
    pictures = [
        Picture(f"{side}{i}", f"{side}{i}", 100 + 20 * ndimage.gaussian_filter(rng.normal(0, 1, (24, 24)), 1.0), np.ones((24, 24), bool), (1.0, 1.0))
        for side in "ab" for i in range(10)
    ]  # fmt: skip
    return any(d.p_value < 0.05 for d in feature_differences(pictures[:10], pictures[10:], seed))


def bias(rng: Draw, seed: int) -> bool:
    return holds(task.bland_altman(rng.normal(1, 2, 25), np.zeros(25)).interval, 1.0)


def patients(rng: Draw) -> tuple[np.ndarray, np.ndarray, tuple[list[str], list[str]]]:
    """Twelve patients of six alike images a side, one source."""
    x, y = (np.repeat(rng.normal(0, 1, (12, 5)), 6, 0) + 0.3 * rng.normal(0, 1, (72, 5)) for _ in range(2))
    return x, y, ([f"a{i // 6}" for i in range(72)], [f"b{i // 6}" for i in range(72)])


def mmd(rng: Draw, seed: int) -> bool:
    return significant(feature.mmd_permutation_test(*patients(rng), permutations=199, seed=seed).p_value)


def classifier(rng: Draw, seed: int) -> bool:
    return significant(feature.classifier_two_sample_test(*patients(rng), permutations=199, seed=seed).p_value)


def significant(p_value: float | None) -> bool:
    return p_value is not None and p_value < 0.05


PROCEDURES: dict[str, tuple[str, Procedure]] = {
    "interval, 20 patients, skewed": ("coverage", mean_of(20)),
    "interval, 35 patients, skewed": ("coverage", mean_of(35)),
    "interval, 60 patients, skewed": ("coverage", mean_of(60)),
    "paired_test, 8 patients": ("level", paired(8)),
    "paired_test, 25 patients": ("level", paired(25)),
    "equivalence_test at its margin, 30 patients": ("level", equivalence),
    "max_t, 15 metrics, 25 patients, any win": ("level", family),
    "holm, 15 independent metrics, any win": ("level", holm),
    "auc_delong, 40 + 80 cases": ("coverage", area),
    "auc_delong, 40 + 80 cases, logit": ("coverage", area_by_logit),
    "auc_delong_paired, 40 + 80 cases": ("level", areas),
    "concordance_correlation, 60 cases": ("coverage", concordance),
    "intraclass_correlation, 30 x 5": ("coverage", intraclass),
    "intraclass_correlation, 30 x 5, generalised": ("coverage", generalised),
    "obuchowski_rockette, 3 readers, 100 cases": ("level", modalities(3)),
    "obuchowski_rockette, 6 readers, 100 cases": ("level", modalities(6)),
    "forced_choice, 6 readers of 60 pairs": ("coverage", guesses(6)),
    "forced_choice, 4 guessing readers of 60 pairs": ("level", guessing(4)),
    "wilson, 40 trials, any share": ("coverage", one_reader),
    "feature_differences, 10 + 10 patients, any": ("level", one_by_one),
    "bland_altman bias, 25 cases": ("coverage", bias),
    "mmd_permutation_test, 12 + 12 patients of 6 images": ("level", mmd),
    "classifier_two_sample_test, 12 + 12 patients of 6 images": ("level", classifier),
}

if __name__ == "__main__":
    main()
