"""When Prometheus alerts a person: what sends a canary back, with each target's limits.

`alerts_of` is a pure function of a target's rollout. An alert sees a window; a share of failures
alerts when it is shown to be above its limit (`evidence_needed`). docs/metrics.md lists the alerts.
"""

import math
from dataclasses import dataclass
from typing import Any

from adire_assets.config.fleet import RolloutConfig
from adire_assets.serving.gateway.bootstrap import BUCKETS

GATEWAYS, SLOTS = "adire-gateway", "adire-slot"  # the names of the scrape jobs
SCRAPE_SECONDS = 15
WINDOW_SECONDS = 300  # the 5m in the names below
TAILS = {"p50": 0.5, "p99": 0.01}  # the share of the answers that may be slower
# A share of errors is looked at in these windows, anew at each scrape. Where the true share is the
# limit, a day's looks at both raise an alarm with this chance at most, though they overlap.
ERROR_WINDOWS = {"5m": WINDOW_SECONDS, "1h": 3600}
RATE_A_DAY = 0.05
MINIMUM_ANSWERS = 10  # in a window
UNANSWERED_AT_LEAST = 2
RELEASE = "target, model, release"  # the labels of what is told of a release

A_RELEASE = "Release {{ $labels.release }} of {{ $labels.model }} on {{ $labels.target }}"
GO_BACK = (
    "`adire status` shows what is live and what a rollout found; "
    '`adire rollback {{ $labels.model }} --reason "..."` goes back to the release before.'
)
LOOK = "`adire status` shows how the processes are; `adire up` starts what is to run on this host."


@dataclass(frozen=True)
class Alert:
    """`seconds`: for how long `expression` has to hold. `labels` are added to those of its series.

    `summary` and `action` are Prometheus' templates, sentences for a person.
    """

    name: str
    expression: str
    seconds: int
    severity: str
    summary: str
    action: str
    labels: tuple[tuple[str, str], ...] = ()

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expression.strip(),
            "for": f"{self.seconds}s",
            "labels": {"severity": self.severity, **dict(self.labels)},
            "annotations": {"summary": self.summary, "action": self.action},
        }


def alerts_of(target: str, rollout: RolloutConfig) -> list[Alert]:
    """What sends a canary back, with this target's limits, and what is down.

    A quantile counts when the window has at least one answer in its tail.
    """
    of, limit = f'{{target="{target}"}}', rollout.error_rate_maximum
    answers = f"{WINDOW_SECONDS} * release:adire_requests:rate5m{of}"
    bound = next(one for one in BUCKETS if one >= rollout.latency_maximum_seconds * 1000)
    unanswered = f"""
sum by ({RELEASE}) (increase(envoy_adire_unanswered_time_count{of}[5m]))
- sum by ({RELEASE}) (
  increase(envoy_adire_unanswered_time_bucket{{target="{target}", le="{bound:g}"}}[5m])
)"""
    timed = f"{WINDOW_SECONDS} * release:adire_request_seconds:count_rate5m{of}"
    enough = {name: _enough(tail) for name, tail in TAILS.items()}
    maximum, increase = rollout.latency_maximum_seconds, rollout.latency_increase_maximum
    return [
        Alert(
            "AdireErrorRateAboveLimit",
            "\nor\n".join(
                _beyond_doubt(window, seconds, limit, of)
                for window, seconds in ERROR_WINDOWS.items()
            ),
            0,
            "critical",
            f"{A_RELEASE} fails {{{{ $value | humanizePercentage }}}} of its requests or "
            f"leaves them to the other slot, more than the {limit:.1%} that are allowed.",
            GO_BACK,
        ),
        Alert(
            "AdireRequestsUnanswered",
            f"""
({unanswered}
) >= {UNANSWERED_AT_LEAST}
> {TAILS["p99"]:g} * ({answers})""",
            0,
            "critical",
            f"{A_RELEASE} left {{{{ $value | humanize }}}} requests of the last five minutes "
            f"unanswered for longer than {maximum:g} s, until they were given up.",
            GO_BACK,
        ),
        Alert(
            "AdireLatencyAboveLimit",
            f"""
release:adire_request_seconds:p99_rate5m{of} > {maximum:g}
and {timed} >= {enough["p99"]}""",
            60,
            "critical",
            f"{A_RELEASE} has a p99 of {{{{ $value | humanizeDuration }}}}, "
            f"above the {maximum:g} s that are allowed.",
            GO_BACK,
            (("quantile", "p99"),),
        ),
        *(
            Alert(
                "AdireCanarySlower",
                f"""
release:adire_request_seconds:{name}_ratio5m{of} > {1 + (increase or 0):g}
and {timed} >= {enough[name]}
and on (target, model) (
  {timed} >= {MINIMUM_ANSWERS}
  and release:adire_running_requests:increase1h
)""",
                60,
                "critical",
                f'{A_RELEASE} has a {name} of {{{{ $value | printf "%.2f" }}}} times that of the '
                f"running release, more than the {1 + (increase or 0):g} times that are allowed.",
                GO_BACK,
                (("quantile", name),),
            )
            for name in (() if increase is None else TAILS)
        ),
        Alert(
            "AdireSlotEjected",
            f"release:adire_slot_ejections:increase5m{of} > 0",
            0,
            "critical",
            f"{A_RELEASE}: the gateway took its slot out of use within the last five minutes.",
            GO_BACK,
        ),
        Alert(
            "AdireGatewayDown",
            f'up{{job="{GATEWAYS}", target="{target}"}} == 0',
            60,
            "critical",
            "The gateway of {{ $labels.target }} does not answer at {{ $labels.instance }}.",
            LOOK,
        ),
        Alert(
            "AdireSlotDown",
            f'up{{job="{SLOTS}", target="{target}"}} == 0',
            60,
            "warning",
            "Slot {{ $labels.slot }} of {{ $labels.target }} does not answer at "
            "{{ $labels.instance }}; the other slot answers in its place.",
            LOOK,
        ),
    ]


def evidence_needed(interval_seconds: float = SCRAPE_SECONDS) -> float:
    """What answers times the divergence of their share from the limit must reach: the logarithm of
    how many looks there are in a day, over `RATE_A_DAY` (union bound)."""
    looks = 86_400 / interval_seconds * len(ERROR_WINDOWS)
    return math.log(looks / RATE_A_DAY)


def _beyond_doubt(window: str, seconds: int, limit: float, of: str) -> str:
    """The share of faults in a window, where it shows the true one to be above the limit.

    Of n answers, a share of s or more has the chance exp(-n KL(s, limit)) at most (Chernoff 1952;
    Hoeffding 1963, theorem 1), with KL the divergence of Bernoulli distributions, and exactly, not
    for large n alone. What was long ago and is over is no alarm.
    """
    share = f"release:adire_request_faults:ratio_rate{window}{of}"
    answers = f"{seconds} * release:adire_requests:rate{window}{of}"
    return f"""(
  {share} > {limit:g}
  and ({answers}) * (
    {share} * ln({share} / {limit:g})
    + (1 - {share}) * ln(clamp_min(1 - {share}, 1e-9) / {1 - limit:g})
  ) >= {evidence_needed():.2f}
  and {answers} >= {MINIMUM_ANSWERS}
  and release:adire_request_faults:ratio_rate5m{of} > {limit:g}
)"""


def _enough(tail: float) -> int:
    """How many answers a quantile needs: the minimum, and one in its tail."""
    return max(MINIMUM_ANSWERS, round(1 / tail))
