"""Blind ratings: challenger against champion, pair by pair, by who does not know which is which.

The report's A/B sheet saves what was chosen, or the studio's Rate page keeps it (`gates.sheets`);
only the project's secret tells whose side was whose. Where no release is live, the champion is the
bare base. Every rating that is handed in is kept with the release, won or lost, and all of the same
adapter against the same champion decide together. A rater's second answer to a pair does not count.

The unit is the prompt: it goes to the release that was chosen more often in its pairs, by all
raters. The seeds of a prompt and the raters of a pair share their fate and are no evidence of their
own. Ties decide nothing. The challenger passes when it wins more of the decided prompts than
`human_win_rate` would give by chance: exact binomial test, one-sided (Clopper & Pearson 1934;
scipy.stats.binomtest), at `human_confidence`.

A rating can be looked at, found wanting, and another one handed in: so the error that is allowed,
1 - `human_confidence`, is spent over the looks, four fifths of what is left at each (Bonferroni:
their sum stays below it). All ratings that came since the last look are one look.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from adire_assets.config.gates import GateConfig
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals
from adire_assets.gates.approvals import Entry, figures
from adire_assets.gates.blind import (
    BASE,
    Rating,
    champion_name,
    rating_outcomes,
    read_rating,
)
from adire_assets.serving.release import ReleaseRecord

FIRST_SHARE = 0.8  # of the error that is left, spent at each look
LOOKS = ("rejected", "approved")  # each is a look at all ratings until then
SIGN = {"won": 1, "lost": -1, "tie": 0}
Vote = tuple[str, str, int]  # rater (as `same_rater` spells it), prompt, seed


# --- what it takes ---------------------------------------------------------------------------


def passes(wins: int, losses: int, policy: GateConfig, look: int) -> bool:
    """Whether so many prompts won and lost are more than chance; `look` counts the looks from 1.

    That is: where each prompt is won with probability `human_win_rate`, the chance of as many wins
    is at most the error that this look may spend.
    """
    from scipy.stats import binomtest  # not in every Dagster process

    error = (1 - policy.human_confidence) * FIRST_SHARE * (1 - FIRST_SHARE) ** (look - 1)
    test = binomtest(wins, max(1, wins + losses), policy.human_win_rate, alternative="greater")
    return wins > 0 and bool(test.pvalue <= error)


def wins_needed(prompts: int, policy: GateConfig, look: int) -> int | None:
    """The least wins of `prompts` decided ones that pass; None when not even all do."""
    found = (wins for wins in range(prompts + 1) if passes(wins, prompts - wins, policy, look))
    return next(found, None)


def rule(
    project: Project, wanted: ReleaseRecord, champion: int, pairs: Mapping[str, str]
) -> tuple[str, str]:
    """What a sheet of `pairs`, name -> prompt, must bring, and how that is counted; both stand on
    it.

    UserError when it could not bring enough, whatever is chosen.
    """
    policy = load_model(project, wanted.model).evaluation.gates
    entries = of_comparison(project, wanted, champion)
    rated = ratings_in(entries)
    known = {(vote["prompt"], vote["seed"]) for rating in rated for vote in rating["votes"]}
    look = _looks(entries) + 1
    prompts = len({*pairs.values(), *(prompt for prompt, _ in known)})
    minimum = policy.human_minimum_pairs
    needed = wins_needed(prompts, policy, look)
    name = f"release {wanted.number} of {wanted.model}"
    if needed is None or max(len(pairs), len(known)) < minimum:
        least = _all_of(policy, look)
        raise UserError(
            f"a sheet of {len(pairs)} pairs of {prompts} prompts cannot approve {name}: it takes "
            f"{least} prompts that are all won, and {minimum} decided pairs (human_confidence "
            f"{policy.human_confidence:g}, human_win_rate {policy.human_win_rate:g}, "
            "human_minimum_pairs); evaluate with more prompts, or approve without a rating"
        )
    together = f", together with the {len(rated)} ratings before" if rated else ""
    return (
        f"release {wanted.number} must win {needed} of {prompts} prompts{together}",
        f"a prompt goes to the release that is chosen more often in its pairs, of which there are "
        f"{len(pairs)}; where ties leave fewer prompts decided, at least {_all_of(policy, look)} "
        f"must be, and all be won; at least {minimum} pairs must be decided",
    )


def _all_of(policy: GateConfig, look: int) -> int:
    """The fewest decided prompts that pass when all are won."""
    return next(wins for wins in count(1) if passes(wins, 0, policy, look))


# --- counting --------------------------------------------------------------------------------


def count_ratings(
    project: Project,
    wanted: ReleaseRecord,
    champion: int | None,
    paths: Sequence[Path],
    policy: GateConfig,
) -> dict[str, Any]:
    """What all ratings of `wanted` against the live release `champion`, or for None against the
    base, say, if they speak for it.

    Those in the files `paths` are added first. UserError when one is of other releases or was
    counted before, with nothing added; when there is none since the last look; when too few pairs
    are decided until now, whose result stays untold; or when the challenger does not win by more
    than chance, which is kept as `rejected`.
    """
    name = f"release {wanted.number} of {wanted.model}"
    with approvals.adding(project, wanted) as add:
        rated = [_kept(project, wanted, champion, read_rating(path), str(path)) for path in paths]
        if len({_rater(one) for one in rated}) < len(rated):
            raise UserError("two of the files are the same rater's answers to the same sheet")
        for rating in rated:
            add("rated", by=rating["rater"], rating=rating)
        all_of_it = of_comparison(project, wanted, champion or BASE)
        if not uncounted(all_of_it):
            raise UserError(
                f"{name}: no rating against {champion_name(champion or BASE)} was handed in since "
                "the last count; rate it on the studio's Rate page, or approve without a rating"
            )
        look = _looks(all_of_it) + 1
        result = {**pooled(all_of_it), "champion": champion or BASE, "look": look}
        decided = result["pairs"]["decided"]
        if decided < policy.human_minimum_pairs:
            raise UserError(
                f"{name}: {decided} pairs are decided until now, and human_minimum_pairs asks for "
                f"{policy.human_minimum_pairs}; what was handed in is kept, and counts with the "
                "ratings of other raters or of another sheet"
            )
        if passes(result["wins"], result["losses"], policy, look):
            return result
        prompts = result["wins"] + result["losses"]
        needed = wins_needed(prompts, policy, look)
        takes = f"{needed} of {prompts}" if needed else f"all of {_all_of(policy, look)}"
        reason = (
            f"{figures(result)}; to win by more than chance takes {takes} prompts "
            f"(human_win_rate {policy.human_win_rate:g}, human_confidence "
            f"{policy.human_confidence:g}, look {look})"
        )
        add("rejected", by=", ".join(result["raters"]), reason=reason, rating=result)
        raise UserError(f"{name} is not approved: {reason}; its ratings are kept with the release")


def hand_in(project: Project, wanted: ReleaseRecord, champion: int | None, rating: Rating) -> None:
    """Keep a rating with the release, to be counted at the next look. UserError as for a file."""
    with approvals.adding(project, wanted) as add:
        kept = _kept(project, wanted, champion, rating, "this sheet")
        add("rated", by=rating.rater, rating=kept)


def loss_sentence(project: Project, wanted: ReleaseRecord, champion: int | None) -> str | None:
    """What its ratings against `champion` said last, when that was not enough."""
    entries = of_comparison(project, wanted, champion or BASE)
    last = next((one for one in reversed(entries) if one.action in LOOKS), None)
    return last.reason if last and last.action == "rejected" else None


def _kept(
    project: Project, wanted: ReleaseRecord, champion: int | None, rating: Rating, source: str
) -> dict[str, Any]:
    """A rating as it is kept; `source` names it. UserError when it is not about this comparison."""
    name = f"release {wanted.number} of {wanted.model}"
    nonce, rater = rating.nonce, rating.rater
    if (rating.model, rating.challenger) != (wanted.model, wanted.number):
        raise UserError(f"{source} rates {rating.challenger} of {rating.model}, not {name}")
    if rating.champion != (champion or BASE):
        live = f"release {champion}" if champion else "nothing"
        raise UserError(
            f"{source} rates {name} against {champion_name(rating.champion)}, but {live} is live "
            "now; rate a new sheet, or approve without a rating"
        )
    outcomes = rating_outcomes(rating, approvals.rating_secret(project))
    kept = approvals.history(project, wanted.model, wanted.number)
    known = [(one, one.rating) for one in kept if one.rating and one.rating.get("nonce") == nonce]
    pairs = next((about["pairs"] for one, about in known if one.action == "sheet"), None)
    if pairs is None:
        raise UserError(
            f"{source}: this project keeps no blind sheet with its nonce; rate a new one: `adire "
            f"report {wanted.model}@{wanted.number} --blind`"
        )
    for one, about in known:
        if one.action == "rated" and same_rater(about["rater"]) == same_rater(rater):
            raise UserError(f"{source}: {rater}'s rating of this sheet was handed in at {one.at}")
    votes = [
        {"prompt": pairs[pair][0], "seed": pairs[pair][1], "outcome": outcome}
        for pair, outcome in sorted(outcomes.items())
    ]
    return {"nonce": nonce, "champion": rating.champion, "rater": rater, "votes": votes}


def of_comparison(project: Project, wanted: ReleaseRecord, champion: int) -> list[Entry]:
    """What was kept of ratings of this adapter, however it was evaluated, against `champion`."""
    known = approvals.history(project, wanted.model, wanted.number)
    own = [one for one in known if one.content["adapter"] == wanted.adapter["content_hash"]]
    return [one for one in own if (one.rating or {}).get("champion") == champion]


def first_votes(entries: Sequence[Entry]) -> dict[Vote, int]:
    """Each rater's first answer to each pair: 1 for the challenger, -1 against it, 0 for a tie."""
    votes: dict[Vote, int] = {}
    for rating in ratings_in(entries):
        who = same_rater(rating["rater"])
        for vote in rating["votes"]:
            votes.setdefault((who, vote["prompt"], vote["seed"]), SIGN[vote["outcome"]])
    return votes


def pooled(entries: Sequence[Entry]) -> dict[str, Any]:
    """{"wins", "losses", "ties"} of prompts; the same of "pairs", and how many of them anybody
    "decided"; "raters"; how many "sheets" were "made" and "rated"."""
    votes = first_votes(entries)
    raters: dict[str, str] = {}
    for rating in ratings_in(entries):
        raters.setdefault(same_rater(rating["rater"]), rating["rater"])
    prompts: Counter[str] = Counter()
    pairs: Counter[tuple[str, int]] = Counter()
    for (_, prompt, seed), sign in votes.items():
        prompts[prompt] += sign
        pairs[prompt, seed] += sign
    sheets = {
        name: len({one.rating["nonce"] for one in entries if one.rating and one.action == action})
        for name, action in (("made", "sheet"), ("rated", "rated"))
    }
    decided = len({pair[1:] for pair, sign in votes.items() if sign})
    of_pairs = {**_tally(pairs.values()), "decided": decided}
    found = {"pairs": of_pairs, "raters": [*raters.values()], "sheets": sheets}
    return {**_tally(prompts.values()), **found}


def _tally(balances: Any) -> dict[str, int]:
    signs = Counter((balance > 0) - (balance < 0) for balance in balances)
    return {"wins": signs[1], "losses": signs[-1], "ties": signs[0]}


def ratings_in(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The ratings that were handed in, in their order."""
    return [one.rating for one in entries if one.action == "rated" and one.rating]


def _looks(entries: Sequence[Entry]) -> int:
    """How often the ratings were looked at."""
    return sum(one.action in LOOKS for one in entries)


def uncounted(entries: Sequence[Entry]) -> bool:
    """Whether a rating was handed in since the ratings were looked at."""
    marks = [one.action for one in entries if one.action in (*LOOKS, "rated")]
    return marks[-1:] == ["rated"]


def _rater(rating: Mapping[str, Any]) -> tuple[str, str]:
    return rating["nonce"], same_rater(rating["rater"])


def same_rater(rater: str) -> str:
    """Equal for one rater, however the name is typed."""
    return " ".join(unicodedata.normalize("NFKC", rater).split()).casefold()
