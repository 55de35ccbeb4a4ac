"""What decides about going live, and whether it is weaker than it was.

    weakenings(before, now)    what `now` asks less of a release, or asks in another way
    weakening_sentence(...)    that in a sentence, gate by gate

Contract: pure functions of plain JSON; `gates.policy_comparison` says what a policy is, and which
the policy before.
A key is dotted, such as "gates.clip_s_minimum" or "rollout.local.error_rate_maximum". RULES says
for each when it is weaker. A change of how releases are evaluated (prompts, seeds, judge) counts as
well, since the same threshold means something else then.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, reduce
from typing import Any

Policy = Mapping[str, Any]
ABSENT = "absent"  # a key that is no longer there, such as a margin that was taken away
SHOWN_CHARACTERS = 60
# What is left out where it is not set: a policy without it asks for the default.
UNSAID = {"evaluation.scheduler": None, "evaluation.quantization": None}
TARGET_KEY = re.compile(r"rollout\.([^.]+)\.(.+)")  # target, limit


def _higher(before: Any, now: Any) -> bool:
    """Without a bound nothing is asked."""
    return before is not None and (now in (None, ABSENT) or now > before)


def _lower(before: Any, now: Any) -> bool:
    return before is not None and (now in (None, ABSENT) or now < before)


def _other(before: Any, now: Any) -> bool:
    return bool(now != before)


def _allowed(before: Any, now: Any) -> bool:
    """Ranges of versions: nothing is stricter than none."""
    return now not in (before, None, ABSENT)


def _bolder(before: list[int], now: Any) -> bool:
    """Steps of a rollout: fewer of them, or a larger share at once."""
    return bool(now == ABSENT or len(now) < len(before) or now[0] > before[0])


def _fewer(before: list[str], now: Any) -> bool:
    return bool(now == ABSENT or {*before} - {*now})


def _never(before: Any, now: Any) -> bool:
    return False


Rule = Callable[[Any, Any], bool]
# The first pattern that fits a whole key says when it is weaker; a key that none fits counts when
# it is another.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"gates\.champion\.margins\..*", _higher),
    (r"gates\.compatibility\.allow\..*", _allowed),
    (r"gates\..*_maximum", _higher),
    (r"gates\..*_minimum|gates\..*confidence", _lower),
    (r"gates\.human_(win_rate|minimum_pairs)|gates\..*_below_base", _lower),
    (r"gates\.human_approval", lambda before, now: before == "required" != now),
    (r"serving\..*", _lower),
    (r"rollout\.on_failure", lambda before, now: before == "rollback" != now),
    (r"rollout\.[^.]*\.steps", _bolder),
    (r"rollout\.[^.]*\.promotion_quantiles", _fewer),
    (r"rollout\.[^.]*\.(mirrored_percent|maximum_seconds|judged_.*|replays_maximum)", _never),
    (r"rollout\.[^.]*\.(.*_maximum|.*_maximum_.*|[a-z_]*_slack_seconds)", _higher),
    (r"rollout\.[^.]*\.(minimum_.*|.*confidence)", _lower),
)


def weakenings(before: Policy, now: Policy) -> list[dict[str, Any]]:
    """What `now` asks less than `before`: {"key", "before", "now"}, None for no bound.

    What `before` knows nothing of cannot be compared, and is left out; but the limits of a new
    target are held against the strictest of the targets before.
    """
    return [
        {"key": key, "before": was, "now": None if value == ABSENT else value}
        for key, was, value in _compared(before, now)
        if _rule(key)(was, value)
    ]


def same(before: Policy, now: Policy) -> bool:
    """Whether all that `before` knows of is as it was."""
    return all(was == value for _, was, value in _compared(before, now))


def strictest(policies: Iterable[Policy]) -> dict[str, Any]:
    """Of each key the strictest value, or the latest where none is stricter; flat."""
    found: dict[str, Any] = {}
    for policy in policies:
        for key, value in _flat(policy).items():
            found[key] = _stricter(key, found.get(key, value), value)
    return found


def weakening_sentence(than: str, found: Iterable[Mapping[str, Any]]) -> str:
    """Such as "weaker than that of release 3: gates.clip_s_minimum 1.52 -> 0.5"."""
    known = [(one["key"].startswith("evaluation."), change_text(one)) for one in found]
    parts = (
        (f"weaker than that of {than}", [text for other_way, text in known if not other_way]),
        (f"evaluated in another way than {than}", [text for other_way, text in known if other_way]),
    )
    return "; ".join(f"{what}: {', '.join(texts)}" for what, texts in parts if texts)


def change_text(weakening: Mapping[str, Any]) -> str:
    """Such as "gates.clip_s_minimum 1.52 -> 0.5"."""
    before, now = shortened(weakening["before"]), shortened(weakening["now"])
    return f"{weakening['key']} {f'{before} -> {now}' if before != now else 'is another'}"


def _rule(key: str) -> Rule:
    return next((rule for pattern, rule in RULES if re.fullmatch(pattern, key)), _other)


def _stricter(key: str, one: Any, other: Any) -> Any:
    """The stricter of two values, the latter where none is."""
    return one if _rule(key) is not _other and _rule(key)(one, other) else other


def _compared(before: Policy, now: Policy) -> Iterator[tuple[str, Any, Any]]:
    """(key, its value before, its value now or ABSENT) of all that can be compared."""
    old, new = _flat(before), {**UNSAID, **_flat(now)}
    if any(key.startswith("evaluation.") for key in old):
        old = {**UNSAID, **old}
    limits = [(*found.groups(), old[key]) for key in old if (found := TARGET_KEY.fullmatch(key))]
    targets = {target for target, *_ in limits}
    for key in new:
        found = TARGET_KEY.fullmatch(key)
        values = [value for _, limit, value in limits if found and limit == found[2]]
        if found and values and found[1] not in targets and _rule(key) is not _other:
            old[key] = reduce(partial(_stricter, key), values)
    for key, value in old.items():
        yield key, value, new.get(key, ABSENT)


def _flat(policy: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}; lists and what a prompt set holds are values."""
    found: dict[str, Any] = {}
    for name, value in policy.items():
        if isinstance(value, Mapping) and name.rpartition(".")[2] != "prompt_set":
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def shortened(value: Any) -> str:
    """A value for people, cut short."""
    if value is None:
        return "none"
    if isinstance(value, Mapping) and "prompts" in value:
        return f"{len(value['prompts'])} prompts"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
