"""How far several raters agree about the same pairs.

    krippendorff_alpha([["won", "won"], ["lost", "tie", "lost"]])

Raters may have answered different pairs: what one has not answered is left out, which Cohen's and
Fleiss' kappa do not allow.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal data, at most 1.

    `units`: for each pair the answers that it got, one of each rater who answered it. A pair with
    one answer says nothing about agreement. 1: always the same answer; 0: no more alike than by
    chance; below 0: less. None where no pair has two answers, or where all answers are equal, so
    that chance would agree as well.

    Krippendorff, K. (2011). Computing Krippendorff's Alpha-Reliability, section C.
    """
    paired = [Counter(answers) for answers in units if len(answers) > 1]
    totals = sum(paired, Counter())
    count = totals.total()
    by_chance = count**2 - sum(total**2 for total in totals.values())
    if not by_chance:
        return None
    observed = sum(
        (answers.total() ** 2 - sum(times**2 for times in answers.values())) / (answers.total() - 1)
        for answers in paired
    )
    return 1 - (count - 1) * observed / by_chance
