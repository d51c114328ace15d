"""The pages of replayed recordings: one per bag, and one over several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from vjepa_ac_planner.report import heatmap
from vjepa_ac_planner.report.charts import Series, line_chart, scatter_chart
from vjepa_ac_planner.report.compass import compass, compass_legend
from vjepa_ac_planner.report.parts import chart_figure, document, key, numbers, picture, table, tiles
from vjepa_ac_planner.report.records import Points
from vjepa_ac_planner.report.replay_records import BagRow, ReplayPage, ScoreRow, SummaryPage, Verdict

_LONGEST = 800
"""Charts of more points than this are thinned."""
_CENTIMETRES = ("dx", "dy", "dz")


def render_replay(page: ReplayPage) -> str:
    """The page of one recording: an HTML document; write it as UTF-8."""
    eyebrow = (f"replay of {page.bag}", f"model {page.model}", f"preset {page.preset}")
    sections = [
        _header(page.verdict, eyebrow),
        _scores(page.verdict),
        _goals(page),
        _film(page),
        _charts(page),
        _landscapes(page),
        _safety(page),
        _footer(page.limits, page.command, page.timings, page.versions),
    ]
    return document(f"{page.bag}: {page.verdict.headline}", sections)


def render_summary(page: SummaryPage) -> str:
    """The page over several recordings."""
    eyebrow = (f"replay of {len(page.bags)} bags", f"model {page.model}", f"preset {page.preset}")
    header = ["recording", "verdict", *map(escape, page.columns)]
    rows = table(header, [_row(page, row) for row in page.bags], 2)
    sections = [
        _header(page.verdict, eyebrow),
        _scores(page.verdict),
        f"<section><h2>The recordings</h2>{rows}</section>",
        _footer("", page.command, {}, page.versions),
    ]
    return document(f"Replay of {len(page.bags)} bags: {page.verdict.headline}", sections)


_MARKS = {
    "good": ("yes", "agrees"),
    "unsure": ("", "not clear"),
    "bad": ("no", "disagrees"),
    "few": ("", "too little motion"),
}


def _row(page: SummaryPage, row: BagRow) -> list[str]:
    name = f'<a href="{escape(row.link)}">{escape(row.name)}</a>' if row.link else escape(row.name)
    if row.error:
        cells = [f'<span class="no">{escape(row.error)}</span>']
        return [name, *cells, *[""] * len(page.columns)]
    style, word = _MARKS[row.level]
    return [name, f'<span class="{style}">{word}</span>', *map(escape, row.cells)]


def _header(verdict: Verdict, eyebrow: Sequence[str]) -> str:
    style = {"good": "good", "bad": "bad"}.get(verdict.level, "")
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict.sentences)
    return (
        f'<header><p class="eyebrow">{" &middot; ".join(map(escape, ("vjepa_ac_planner", *eyebrow)))}</p>'
        f'<h1><span class="{style}">{escape(verdict.headline)}</span></h1>'
        f'<div class="findings">{sentences}</div>{_thresholds(verdict)}'
        f"{tiles((escape(v), escape(u), escape(label)) for v, u, label in verdict.tiles)}"
        f'<div class="caveat"><h3>What this cannot show</h3><p>{escape(verdict.caveat)}</p></div></header>'
    )


def _thresholds(verdict: Verdict) -> str:
    if not verdict.asked:
        return ""
    if not verdict.missed:
        return f'<p class="yes">All {verdict.asked} thresholds that were asked for are met.</p>'
    items = "".join(f"<li>{escape(text)}</li>" for text in verdict.missed)
    count = f"{len(verdict.missed)} of {verdict.asked} thresholds are missed"
    return f'<div class="no">{count}:<ul>{items}</ul></div>'


def _scores(verdict: Verdict) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in verdict.notes)
    body = "".join(_score(row) for row in verdict.scores)
    return (
        "<section><h2>The scores, beside their baselines</h2>"
        '<table class="scores"><thead><tr><th>score</th><th class=n>value</th><th class=n>95% interval</th>'
        f"<th>baselines</th><th>what it says</th></tr></thead><tbody>{body}</tbody></table>"
        f"{notes}</section>"
    )


def _score(row: ScoreRow) -> str:
    baselines = "".join(
        f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in row.baselines
    )
    return (
        f"<tr><td><b>{escape(row.name)}</b></td><td class=n><b>{escape(row.value)}</b></td>"
        f'<td class=n>{escape(row.interval)}</td><td class="bases">{baselines}</td>'
        f'<td class="meaning">{escape(row.meaning)}</td></tr>'
    )


def _goals(page: ReplayPage) -> str:
    titles = ["Goal"] if len(page.goals) == 1 else [f"Goal {i + 1}" for i in range(len(page.goals))]
    size = page.goals[0].seen.shape[0]
    start = (
        f"<figure>{picture(page.start.image, inset=page.start.seen, alt='start')}"
        f"<figcaption><b>Start</b>, {escape(page.start.name)}</figcaption></figure>"
    )
    figures = start + "".join(
        f"<figure id=goal-{i}>{picture(view.image, inset=view.seen, alt=view.name)}"
        f"<figcaption><b>{titles[i]}</b>, {escape(view.name)}</figcaption></figure>"
        for i, view in enumerate(page.goals)
    )
    return (
        f"<section><h2>{'The goal' if len(page.goals) == 1 else 'The goals'}</h2>"
        '<p class="note">All that the planner is told. Distances to it come from the recorded poses; the '
        f"planner does not know them. The small pictures are what the model receives, {size}&times;{size} "
        "pixels: what matters must be visible in them.</p>"
        f'<div class="triple">{figures}</div></section>'
    )


def _film(page: ReplayPage) -> str:
    scale = _scale(page)
    frames = "".join(
        f'<figure data-at="{frame.step}" data-goal="goal-{frame.goal}">'
        f"{picture(frame.image, compass(frame.recorded, frame.planned, scale), alt=f'step {frame.step}')}"
        f"<figcaption><span>step {frame.step}</span><span>{frame.seconds:.1f} s</span></figcaption>"
        f'<div class="detail"><h3>Step {frame.step}, {frame.seconds:.2f} s</h3>'
        f"{numbers((escape(k), escape(v)) for k, v in frame.numbers)}</div></figure>"
        for frame in page.film
    )
    shown = len(page.film), len(page.columns["index"])
    which = "Every step" if shown[0] == shown[1] else f"{shown[0]} of {shown[1]} steps, evenly spaced,"
    return (
        f'<section><h2>The recording</h2><p class="note">{which} as the camera saw it. The arrows '
        "compare what the robot did next with what the planner would have done, in the robot&rsquo;s base "
        "frame.</p>"
        '<div class="player" hidden><div><div class="stage"></div>'
        '<div class="controls"><button type="button">Play</button>'
        '<input type="range" min="0" value="0" step="1" aria-label="step"></div></div>'
        '<div class="panel"><div class="now"></div>'
        f'<div class="below"><div class="goal"></div>{compass_legend(scale)}</div></div></div>'
        f'<div class="sheet">{frames}</div></section>'
    )


def _scale(page: ReplayPage) -> float:
    """Length of the longest arrow [m], so that arrows of all frames compare."""
    sizes = [0.01]
    for frame in page.film:
        sizes += [float(np.abs(a[:3]).max()) for a in (frame.recorded, frame.planned) if a is not None]
    return max(sizes)


def _charts(page: ReplayPage) -> str:
    columns = page.columns
    figures = [_axis(page, axis) for axis in page.axes]
    if np.isfinite(columns["distance"]).any():
        distance = _lines(
            [("distance [cm]", 100 * columns["distance"], "a", False)], "distance [cm]", cursor=True
        )
        figures.append(("Distance to the goal", "cm, from the recorded poses", "", distance))
    energy = _lines([("energy", columns["energy"], "a", False)], "energy", cursor=True)
    figures.append(("Energy to the goal", "mean |z &minus; z<sub>goal</sub>| of what is seen", "", energy))
    if np.isfinite(columns["distance"]).any():
        rows = np.flatnonzero((columns["at_goal"] == 0) & np.isfinite(columns["energy"]))
        rows = rows[:: max(1, -(-len(rows) // _LONGEST))]
        cloud = scatter_chart(
            (100 * columns["distance"][rows]).tolist(),
            columns["energy"][rows].tolist(),
            x_label="distance [cm]",
            y_label="energy",
        )
        figures.append(("Energy against distance", "one dot per step; a useful energy rises", "", cloud))
    figures.append(_energies(columns))
    figures.append(_surprises(columns))
    seconds = _lines(
        [("plan time [ms]", 1000 * columns["plan_seconds"], "b", False)],
        "plan time [ms]",
        reference=(1000 * page.step_seconds, f"one step: {1000 * page.step_seconds:.0f} ms"),
        cursor=True,
    )
    figures.append(("Time to plan", "ms, encoding and optimisation", "", seconds))
    body = "".join(chart_figure(*figure) for figure in figures)
    return f'<section><h2>Step by step</h2><div class="grid2">{body}</div></section>'


Figure = tuple[str, str, str, str]


def _axis(page: ReplayPage, axis: str) -> Figure:
    factor, unit = (100.0, "cm") if axis in _CENTIMETRES else (180 / math.pi, "degrees")
    if axis == "dgrip":
        factor, unit = 1.0, "closedness"
    chart = _lines(
        [
            ("recorded", factor * page.columns[f"recorded_{axis}"], "b", False),
            ("planned", factor * page.columns[f"planned_{axis}"], "a", False),
        ],
        f"{axis} [{unit}]",
        cursor=True,
    )
    keys = key("a", "planned") + key("b", "recorded")
    return f"{axis}: planned and recorded", f"{unit} per step", keys, chart


def _energies(columns: Mapping[str, Points]) -> Figure:
    chart = _lines(
        [
            ("standing still", columns["energy_zero"], "c", True),
            ("recorded action", columns["energy_recorded"], "b", False),
            ("plan", columns["energy_planned"], "a", False),
        ],
        "predicted energy",
        cursor=True,
        y_from_zero=False,
    )
    keys = key("a", "plan") + key("b", "what the robot did") + key("c", "standing still", dashed=True)
    text = "energy that the world model predicts after each; lower is better"
    return "What the model thinks of each action", text, keys, chart


def _surprises(columns: Mapping[str, Points]) -> Figure:
    chart = _lines(
        [
            ("no change expected", columns["surprise_copy"], "c", True),
            ("another action", columns["surprise_shuffled"], "b", True),
            ("the action taken", columns["surprise"], "a", False),
        ],
        "error of the next latent",
        cursor=True,
    )
    keys = (
        key("a", "told the action taken")
        + key("b", "told another action", dashed=True)
        + key("c", "expecting no change", dashed=True)
    )
    return (
        "Surprise: prediction against what came next",
        "mean |z &minus; z<sub>predicted</sub>|",
        keys,
        chart,
    )


def _lines(
    lines: Sequence[tuple[str, Points, str, bool]],
    label: str,
    *,
    reference: tuple[float, str] | None = None,
    cursor: bool = False,
    y_from_zero: bool = True,
) -> str:
    """Lines over steps, thinned where there are too many points to be told apart."""
    every = max(1, -(-len(lines[0][1]) // _LONGEST))
    dots = len(lines[0][1]) <= 60
    series = [
        Series(name, values[::every].tolist(), color, dashed, dots and not dashed, every=every)
        for name, values, color, dashed in lines
    ]
    return line_chart(
        series, x_label="step", y_label=label, reference=reference, cursor=cursor, y_from_zero=y_from_zero
    )


def _landscapes(page: ReplayPage) -> str:
    if not page.landscapes:
        return ""
    mark = "the recorded action, seen in this plane"
    return heatmap.section(
        page.landscapes,
        "What the world model makes of every step in a plane through the chosen action: light is near to "
        "the goal, dark is far, the centre is standing still. Where planner and robot agree, cross and "
        "ring lie on the same side.",
        mark,
    )


def _safety(page: ReplayPage) -> str:
    def listed(header: str, rows: Sequence[tuple[str, str]], nothing: str) -> str:
        if not rows:
            return f"<p>{nothing}</p>"
        return table([header, "count"], [[escape(name), escape(count)] for name, count in rows])

    topics = table(["part", "topic"], [[escape(k), escape(v)] for k, v in page.topics], numeric=2)
    identical = (
        f"<h3>Plans recorded in the bag</h3><p>{escape(page.identical)}</p>" if page.identical else ""
    )
    return (
        "<section><h2>Safety and data</h2>"
        '<div class="columns"><div><h3>What the safety layer would have done</h3>'
        f"{listed('limit (effect)', page.refusals, 'Nothing: no plan met a limit.')}</div>"
        "<div><h3>What could not be used of the recording</h3>"
        f"{listed('reason', page.skipped, 'Nothing was skipped.')}"
        f"{topics if page.topics else ''}</div></div>{identical}</section>"
    )


def _footer(
    limits: str,
    command: str,
    timings: Mapping[str, tuple[float, float]],
    versions: Mapping[str, str],
) -> str:
    stages = table(
        ["stage", "median [ms]", "p95 [ms]"],
        [[escape(k), f"{m * 1000:.1f}", f"{p * 1000:.1f}"] for k, (m, p) in timings.items()],
    )
    parts = table(["part", "version"], [[escape(k), escape(v)] for k, v in versions.items()], numeric=2)
    known = (
        f"<section><h2>What this model cannot do</h2><p>{escape(limits)}</p></section>" if limits else ""
    )
    time = f"<div><h3>Time per plan</h3>{stages}</div>" if timings else ""
    return (
        f"{known}<section><h2>Reproduce</h2><pre>{escape(command)}</pre>"
        f'<div class="columns">{time}<div><h3>Made with</h3>{parts}</div></div></section>'
    )
