"""Blind ratings: challenger against champion, pair by pair, by who does not know which is which.

The report's A/B sheet saves what was chosen; only the project's secret tells whose side was whose.
Every rating that is handed in is kept with the release, won or lost, and all of the same adapter
against the same champion decide together. A rater's second answer to a pair does not count.

The unit is the prompt: it goes to the release that was chosen more often in its pairs, by all
raters. The seeds of a prompt and the raters of a pair share their fate and are no evidence of their
own. Ties decide nothing. The challenger passes when it wins more of the decided prompts than
`human_win_rate` would give by chance: exact binomial test, one-sided (Clopper & Pearson 1934;
scipy.stats.binomtest), at `human_confidence`.

A rating can be looked at, found wanting, and another one handed in: so the error that is allowed,
1 - `human_confidence`, is spent over the looks, four fifths of what is left at each (Bonferroni:
their sum stays below it). Ratings that are handed in together are one look.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.config.gates import GateConfig
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals
from adire_assets.gates.approvals import Entry, content_of, figures
from adire_assets.gates.blind import rating_outcomes, read_rating
from adire_assets.serving import record
from adire_assets.serving.release import ReleaseRecord

FIRST_SHARE = 0.8  # of the error that is left, spent at each look
SIGN = {"won": 1, "lost": -1, "tie": 0}


# --- what it takes ---------------------------------------------------------------------------


def p_value(wins: int, losses: int, policy: GateConfig) -> float:
    """The chance of as many wins where each prompt is won with probability `human_win_rate`."""
    from scipy.stats import binomtest  # not in every Dagster process

    if not wins:
        return 1.0
    rate = policy.human_win_rate
    return float(binomtest(wins, wins + losses, rate, alternative="greater").pvalue)


def allowed_error(policy: GateConfig, look: int) -> float:
    """What look number `look`, from 1, may err with."""
    left = (1 - FIRST_SHARE) ** (look - 1)
    return (1 - policy.human_confidence) * FIRST_SHARE * left


def passes(wins: int, losses: int, policy: GateConfig, look: int) -> bool:
    """Whether so many prompts won and lost are more than chance."""
    return p_value(wins, losses, policy) <= allowed_error(policy, look)


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
    entries = _of_comparison(project, wanted, champion)
    known = {(vote["prompt"], vote["seed"]) for one in entries for vote in _votes(one)}
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
    before = sum(one.action == "rated" for one in entries)
    together = f", together with the {before} ratings before" if before else ""
    return (
        f"release {wanted.number} must win {needed} of {prompts} prompts{together}",
        f"a prompt goes to the release that is chosen more often in its pairs, of which there are "
        f"{len(pairs)}; where ties leave fewer prompts decided, at least {_all_of(policy, look)} "
        f"must be, and all be won; at least {minimum} pairs must be decided",
    )


def _all_of(policy: GateConfig, look: int) -> int:
    """The fewest decided prompts that pass when all are won."""
    count = 1
    while not passes(count, 0, policy, look):
        count += 1
    return count


# --- counting --------------------------------------------------------------------------------


def count_ratings(
    project: Project,
    wanted: ReleaseRecord,
    champion: int | None,
    paths: Sequence[Path],
    policy: GateConfig,
) -> dict[str, Any]:
    """What all ratings of `wanted` against the live release `champion` say, if they speak for it.

    Those in the files `paths` are added first. UserError when one is of other releases or was
    counted before, with nothing added; when too few pairs are decided until now, whose result stays
    untold; or when the challenger does not win by more than chance, which is kept as `rejected`.
    """
    name = f"release {wanted.number} of {wanted.model}"
    with approvals.kept(project, wanted) as lease:
        entries = [_entry(project, wanted, champion, path) for path in paths]
        if len({_who(one) for one in entries}) < len(entries):
            raise UserError("two of the files are the same rater's answers to the same sheet")
        for entry in entries:
            approvals.add(project, wanted, entry, lease)
        assert champion is not None
        all_of_it = _of_comparison(project, wanted, champion)
        look = _looks(all_of_it) + 1
        result = {**_pooled(all_of_it), "champion": champion, "look": look}
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
        raters = ", ".join(result["raters"])
        entry = Entry("rejected", record.now(), content_of(wanted), raters, reason, result)
        approvals.add(project, wanted, entry, lease)
        raise UserError(f"{name} is not approved: {reason}; its ratings are kept with the release")


def loss_sentence(project: Project, wanted: ReleaseRecord, champion: int | None) -> str | None:
    """What its ratings against `champion` said last, when that was not enough."""
    entries = _of_comparison(project, wanted, champion) if champion else []
    decided = [one for one in entries if one.action in ("rejected", "approved")]
    last = decided[-1] if decided else None
    return last.reason if last and last.action == "rejected" else None


def _entry(project: Project, wanted: ReleaseRecord, champion: int | None, path: Path) -> Entry:
    """The rating in `path` as it is kept. UserError when it is not about this comparison."""
    rating, name = read_rating(path), f"release {wanted.number} of {wanted.model}"
    if rating.model != wanted.model or rating.challenger != wanted.number:
        raise UserError(f"{path} rates {rating.challenger} of {rating.model}, not {name}")
    if champion is None or rating.champion != champion:
        live = f"release {champion}" if champion else "nothing"
        raise UserError(
            f"{path} rates {name} against release {rating.champion}, but {live} is live now; rate "
            "a new sheet, or approve without a rating"
        )
    found = rating_outcomes(rating, approvals.rating_secret(project))
    entries = approvals.history(project, wanted.model, wanted.number)
    sheets = [one for one in entries if one.action == "sheet" and _nonce(one) == rating.nonce]
    if not sheets:
        raise UserError(
            f"{path}: this project keeps no blind sheet with its nonce; rate a new one: `adire "
            f"report {wanted.model}@{wanted.number} --blind`"
        )
    pairs = (sheets[0].rating or {})["pairs"]
    votes = [
        {"prompt": pairs[pair][0], "seed": pairs[pair][1], "outcome": outcome}
        for pair, outcome in sorted(found.items())
    ]
    kept = {"nonce": rating.nonce, "champion": champion, "rater": rating.rater, "votes": votes}
    entry = Entry("rated", record.now(), content_of(wanted), rating.rater, None, kept)
    for one in entries:
        if one.action == "rated" and _who(one) == _who(entry):
            raise UserError(
                f"{path}: {rating.rater}'s rating of this sheet was counted at {one.at}"
            )
    return entry


def _of_comparison(project: Project, wanted: ReleaseRecord, champion: int) -> list[Entry]:
    """What was kept of ratings of this adapter, however it was evaluated, against `champion`."""
    adapter = wanted.adapter["content_hash"]
    return [
        one
        for one in approvals.history(project, wanted.model, wanted.number)
        if one.content["adapter"] == adapter and (one.rating or {}).get("champion") == champion
    ]


def _pooled(entries: Sequence[Entry]) -> dict[str, Any]:
    """{"wins", "losses", "ties"} of prompts; the same of "pairs", and how many of them anybody
    "decided"; "raters"; how many "sheets" were "made" and "rated"."""
    votes: dict[tuple[str, str, int], str] = {}  # a rater's first answer to a pair
    raters: dict[str, str] = {}
    for entry in entries:
        who = _same(entry.by or "")
        if _votes(entry):
            raters.setdefault(who, entry.by or "")
        for vote in _votes(entry):
            votes.setdefault((who, vote["prompt"], vote["seed"]), vote["outcome"])
    prompts: Counter[str] = Counter()
    pairs: Counter[tuple[str, int]] = Counter()
    for (_, prompt, seed), outcome in votes.items():
        prompts[prompt] += SIGN[outcome]
        pairs[prompt, seed] += SIGN[outcome]
    sheets = {
        name: len({_nonce(one) for one in entries if one.action == action})
        for name, action in (("made", "sheet"), ("rated", "rated"))
    }
    decided = {(prompt, seed) for (_, prompt, seed), outcome in votes.items() if SIGN[outcome]}
    of_pairs = {**_tally(pairs.values()), "decided": len(decided)}
    found = {"pairs": of_pairs, "raters": [*raters.values()], "sheets": sheets}
    return {**_tally(prompts.values()), **found}


def _tally(balances: Any) -> dict[str, int]:
    signs = Counter((balance > 0) - (balance < 0) for balance in balances)
    return {"wins": signs[1], "losses": signs[-1], "ties": signs[0]}


def _votes(entry: Entry) -> list[dict[str, Any]]:
    return (entry.rating or {}).get("votes", []) if entry.action == "rated" else []


def _looks(entries: Sequence[Entry]) -> int:
    """How often the ratings were looked at."""
    return sum(one.action in ("rejected", "approved") for one in entries)


def _nonce(entry: Entry) -> str:
    return str((entry.rating or {}).get("nonce"))


def _who(entry: Entry) -> tuple[str, str]:
    return _nonce(entry), _same(entry.by or "")


def _same(rater: str) -> str:
    """Equal for one rater, however the name is typed."""
    return " ".join(unicodedata.normalize("NFKC", rater).split()).casefold()
