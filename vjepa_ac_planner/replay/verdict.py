"""Scores in plain words, and thresholds for continuous integration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.replay.scores import STANDS_STILL

Level = Literal["good", "unsure", "bad", "few"]

FEWEST = 10
"""Fewer compared signs than this are too few for a verdict."""
GOOD = 0.65
"""Sign agreement: an interval that begins here or above is good, one that ends below is bad; chance is
0.5."""

BLIND = 0.95
"""Prediction error, relative to expecting no change, from which the model foresees nothing."""

OPEN_LOOP = (
    "A replay is open loop: whatever the planner answers, the next frame shows what the recorded robot "
    "did. It can show that the planner disagrees with the recording, that the camera looks foreign to the "
    "world model, or that the safety layer would have stepped in. It cannot show that the planner would "
    "have completed the task: small errors add up on a robot, and a plan may differ from the recording "
    "and still be right."
)


@dataclass(frozen=True)
class Verdict:
    """The result in words, the most important first."""

    level: Level
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Thresholds:
    """What a replay must come up to; None asks nothing."""

    min_sign_agreement: float | None = ranged(None, low=0.0, high=1.0)
    """Least share of signs that agree with the recording."""
    min_cosine: float | None = ranged(None, low=-1.0, high=1.0)
    """Least mean cosine between planned and recorded translation."""
    min_energy_rank_correlation: float | None = ranged(None, low=-1.0, high=1.0)
    """Least rank correlation of energy and true distance."""
    max_surprise_ratio: float | None = ranged(None, low=0.0, high=1e6)
    """Largest error of the predicted next latent, relative to expecting no change."""
    max_refusals: float | None = ranged(None, low=0.0, high=1.0)
    """Largest share of plans that the safety layer refuses."""
    max_p95_plan_s: float | None = ranged(None, low=0.0, high=1e6, unit="s")
    """Largest 95th percentile of the time of a plan [s]."""
    min_steps: int | None = ranged(None, low=0, high=10**9)
    """Fewest steps that must be comparable."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def missed(self, scores: Mapping[str, Any]) -> tuple[str, ...]:
        """What falls short, in words; a score that could not be measured does."""
        measured = {
            "min_sign_agreement": scores["sign_agreement"]["value"],
            "min_cosine": scores["cosine_mean"]["value"],
            "min_energy_rank_correlation": scores["energy_rank_correlation"]["value"],
            "max_surprise_ratio": scores["surprise"]["ratio"],
            "max_refusals": scores["refusals"]["share"],
            "max_p95_plan_s": scores["latency"]["p95"],
            "min_steps": scores["compared"],
        }
        problems = []
        for item in fields(self):
            bound = getattr(self, item.name)
            value = measured[item.name]
            value = math.nan if value is None else value
            if bound is None:
                continue
            least = item.name.startswith("min")
            if not (value >= bound if least else value <= bound):
                shown = "not measurable on this recording" if math.isnan(value) else f"{value:.4g}"
                option = "--" + item.name.replace("_", "-")
                problems.append(f"{option} {bound:g}: {shown}")
        return tuple(problems)


def judge(scores: Mapping[str, Any]) -> Verdict:
    """The verdict on one replay, or on several together."""
    signs, ranks = scores["sign_agreement"], scores["energy_rank_correlation"]
    level = _level(signs)
    blind = scores["surprise"]["ratio"] >= BLIND
    headline = {
        "good": "The plans go the way that the recorded robot went",
        "unsure": "It is not clear from these motions whether the plans go the recorded way",
        "bad": "The plans do not go the way that the recorded robot went",
        "few": "There is too little motion here to judge the plans by",
    }[level]
    if level == "good" and blind:
        level, headline = (
            "unsure",
            "The plans go the recorded way, but the model cannot foresee what actions do",
        )
    sentences = [_about_signs(scores), _about_energy(ranks), _about_surprise(scores["surprise"])]
    sentences += [_about_the_way(scores, level), _about_refusals(scores["refusals"])]
    return Verdict(level, headline, tuple(filter(None, sentences)))


def _level(signs: Mapping[str, Any]) -> Level:
    if signs["n"] < FEWEST:
        return "few"
    low, high = signs["ci95"]
    if low >= GOOD:
        return "good"
    # An interval on both sides of it, as few motions give, is evidence of neither.
    return "bad" if high < GOOD else "unsure"


def _about_signs(scores: Mapping[str, Any]) -> str:
    signs, cosine = scores["sign_agreement"], scores["cosine_mean"]
    if not signs["n"]:
        return "The recorded arm never moves far enough in one step to have a direction to compare."
    axes = ", ".join(scores["axes"])
    base = signs["baselines"]
    return (
        f"Of {signs['n']} recorded motions along {axes}, the plan has the same direction in "
        f"{signs['value']:.0%} (95% interval {signs['ci95'][0]:.0%} to {signs['ci95'][1]:.0%}); random "
        f"actions have it in {base['random']:.0%}, a copy of the recorded action before in "
        f"{base['previous']:.0%}. "
        f"The mean cosine of the translations is {cosine['value']:.2f} (random "
        f"{cosine['baselines']['random']:.2f}, copy {cosine['baselines']['previous']:.2f})."
    )


def _about_energy(ranks: Mapping[str, Any]) -> str:
    if not ranks["n"]:
        return (
            "Whether the energy falls on the way to the goal cannot be told: there are too few steps on "
            "it, or where the goal lies is not known."
        )
    value, base = ranks["value"], ranks["baselines"]
    meaning = (
        "the energy falls as the arm comes nearer"
        if value > 0.7
        else "the energy follows the distance only loosely"
        if value > 0.3
        else "the energy says little about the distance, so this camera or goal may be foreign to the model"
    )
    pixels = base.get("pixels", math.nan)
    beside = "" if math.isnan(pixels) else f"; plain pixel differences have {pixels:.2f}"
    return (
        f"Energy and true distance to the goal have a rank correlation of {value:.2f}{beside}: {meaning}."
    )


def _about_surprise(surprise: Mapping[str, Any]) -> str:
    if not surprise["n"]:
        return ""
    ratio = surprise["ratio"]
    meaning = (
        "the model knows what actions do here"
        if ratio < 0.7
        else "the model foresees a little of what happens"
        if ratio < BLIND
        else "the model foresees nothing here: do not trust its plans with this camera"
    )
    return (
        f"Told what the robot did, the world model's error about the next frame is {ratio:.0%} of that of "
        f"expecting no change: {meaning}."
    )


def _about_the_way(scores: Mapping[str, Any], level: Level) -> str:
    """Where the model is sound and the directions differ, the recording may have taken another way."""
    sound = scores["energy_rank_correlation"]["value"] > 0.7 and scores["surprise"]["ratio"] < 0.7
    if level not in ("bad", "unsure") or not sound:
        return ""
    return (
        "As energy and predictions are sound here, the recording may simply not go straight to the goal, "
        "as the plans do: give it sub-goals (--goal, repeated) and see whether the directions then agree."
    )


def _about_refusals(refusals: Mapping[str, Any]) -> str:
    if not refusals["of"]:
        return ""
    if not refusals["steps"]:
        return f"The safety layer would have refused none of {refusals['of']} plans."
    stops = {
        limit: count
        for limit, count in refusals["by_limit"].items()
        if limit != STANDS_STILL and not limit.endswith("(limited)")
    }
    common = max(stops, key=lambda limit: stops[limit], default="")
    return f"The safety layer would have refused {refusals['steps']} of {refusals['of']} plans" + (
        f", most often for {common}." if common else "."
    )
