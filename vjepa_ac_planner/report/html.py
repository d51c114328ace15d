"""The report as one page: self-contained, light and dark, readable without its script."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np

from vjepa_ac_planner.report import heatmap
from vjepa_ac_planner.report.charts import Series, line_chart
from vjepa_ac_planner.report.overlay import legend, overlay
from vjepa_ac_planner.report.parts import chart_figure, document, key, numbers, picture, table, tiles
from vjepa_ac_planner.report.records import Landscape, Points, Report, StepRecord


def render(report: Report) -> str:
    """The whole page.

    Args:
        report: at least one step.

    Returns:
        An HTML document; write it as UTF-8.
    """
    title = f"{report.task}, seed {report.seed}: {'reached' if report.reached else 'not reached'}"
    sections = [
        _header(report),
        _task(report),
        _run(report),
        _charts(report),
        _landscapes(report.landscapes),
        _episodes(report),
        _footer(report),
    ]
    return document(title, sections)


def _cm(metres: float) -> str:
    return f"{metres * 100:.1f}"


def _energy(value: float) -> str:
    """A step whose plan failed has none."""
    return f"{value:.4f}" if math.isfinite(value) else "no plan"


def _header(report: Report) -> str:
    start, final, count = report.steps[0].distance, report.final_distance, len(report.steps)
    plans = [step.plan_seconds for step in report.steps]
    verdict = (
        '<span class="good">Reached the goal</span>'
        if report.reached
        else '<span class="bad">Did not reach the goal</span>'
    )
    figures = [
        (_cm(start), "cm", "distance at the start"),
        (_cm(final), "cm", f"at the end (goal: {_cm(report.threshold)} cm)"),
        (str(count), "", f"steps of {report.control_period:g} s"),
        (f"{float(np.median(plans)) * 1000:.0f}", "ms", "per plan, median"),
    ]
    return (
        f'<header><p class="eyebrow">vjepa_ac_planner &middot; {escape(report.task)} &middot; '
        f"seed {report.seed} &middot; model {escape(report.model)} &middot; "
        f"preset {escape(report.preset)}</p>"
        f"<h1>{verdict}: {_cm(start)} cm &rarr; {_cm(final)} cm in {count} step{'s' * (count != 1)}</h1>"
        '<p class="lead">A simulated Franka Panda, one camera, one goal image. A world model imagines what '
        "candidate actions would look like; the sequence whose imagined future lies nearest to the goal is "
        "found by CEM, its first action is carried out, and everything is planned again. "
        f"It ended because {escape(report.stop_reason)}.</p>"
        f"{tiles(figures)}</header>"
    )


def _task(report: Report) -> str:
    views = report.model_views
    side = next(iter(views.values())).shape[1] if views else 0
    inset = (
        f" The small pictures are what the model receives, {side}&times;{side} pixels; the large ones show "
        "the same moments through the same camera at a higher resolution, for you."
        if side
        else ""
    )
    figures = [
        ("start", report.steps[0].image, "Start", f"{_cm(report.steps[0].distance)} cm from the goal"),
        ("goal", report.goal_image, "Goal image", "all that the planner is told"),
        ("final", report.final_image, "End", f"{_cm(report.final_distance)} cm from the goal"),
    ]
    pictures = "".join(
        f"<figure id={key}>{picture(image, inset=views.get(key), alt=name)}"
        f"<figcaption><b>{name}</b>, {text}</figcaption></figure>"
        for key, image, name, text in figures
    )
    return (
        "<section><h2>The task</h2>"
        '<p class="note">The planner sees camera images and the arm&rsquo;s own pose. It is never told '
        "where the goal is: distances on this page are measured by the simulator, for the reader."
        f"{inset}</p>"
        f'<div class="triple">{pictures}</div></section>'
    )


def _step(report: Report, k: int, step: StepRecord) -> str:
    command = "move" if step.kind == "move" else f"hold: {escape(step.reason)}"
    rows = [
        ("distance to the goal", f"{_cm(step.distance)} cm"),
        ("energy of the plan", _energy(step.energy)),
        ("energy of standing still", _energy(step.zero_energy)),
        ("planned in", f"{step.plan_seconds * 1000:.0f} ms"),
        ("command", command),
    ]
    marks = _marks(report, report.trail[: k + 1], step.path)
    return (
        f"<figure>{picture(step.image, marks, alt=f'before step {k + 1}')}"
        f"<figcaption><span>before step {k + 1}</span><span>{_cm(step.distance)} cm</span></figcaption>"
        f'<div class="detail"><h3>Step {k + 1}</h3>{numbers(rows)}</div></figure>'
    )


def _marks(report: Report, trail: Points, path: Points | None = None) -> str:
    height, width = report.goal_image.shape[:2]
    return overlay((width, height), report.goal_pixel, trail, path)


def _run(report: Report) -> str:
    sheet = "".join(_step(report, k, step) for k, step in enumerate(report.steps))
    end = numbers(
        [
            ("distance to the goal", f"{_cm(report.final_distance)} cm"),
            ("ended because", escape(report.stop_reason)),
        ]
    )
    sheet += (
        f"<figure>{picture(report.final_image, _marks(report, report.trail), alt='end')}"
        f"<figcaption><span>end</span><span>{_cm(report.final_distance)} cm</span></figcaption>"
        f'<div class="detail"><h3>End</h3>{end}</div></figure>'
    )
    return (
        "<section><h2>The run</h2>"
        '<p class="note">Every step as the camera saw it when the plan was made.</p>'
        '<div class="player" hidden><div><div class="stage"></div>'
        '<div class="controls"><button type="button">Play</button>'
        '<input type="range" min="0" value="0" step="1" aria-label="step"></div></div>'
        '<div class="panel"><div class="now"></div>'
        f'<div class="below"><div class="goal"></div>{legend()}</div></div></div>'
        f'<div class="sheet">{sheet}</div></section>'
    )


def _charts(report: Report) -> str:
    steps = report.steps
    distance = line_chart(
        [Series("distance [cm]", [s.distance * 100 for s in steps] + [report.final_distance * 100])],
        x_label="steps taken",
        y_label="distance [cm]",
        reference=(report.threshold * 100, f"reached: {_cm(report.threshold)} cm"),
        cursor=True,
    )
    energy = line_chart(
        [
            Series("standing still", [s.zero_energy for s in steps], "c", dashed=True, first=1),
            Series("plan", [s.energy for s in steps], first=1),
        ],
        x_label="step",
        y_label="energy",
        cursor=True,
    )
    convergence = line_chart(
        [
            line
            for k, s in enumerate(steps)
            for line in (
                Series("elite mean", _shares(s, s.elite_energy), color="c", dots=False, step=k, first=1),
                Series("best", _shares(s, s.best_energy), dots=False, step=k, first=1),
            )
        ],
        x_label="CEM iteration",
        y_label="share of standing still's energy",
        y_from_zero=False,
        reference=(1.0, "standing still"),
    )
    seconds = line_chart(
        [Series("plan time [ms]", [s.plan_seconds * 1000 for s in steps], "b", first=1)],
        x_label="step",
        y_label="plan time [ms]",
        reference=(report.control_period * 1000, f"control period: {report.control_period * 1000:.0f} ms"),
        cursor=True,
    )
    figures = [
        ("Distance to the goal", "cm, measured by the simulator", "", distance),
        (
            "Energy: the plan against standing still",
            "mean |z &minus; z<sub>goal</sub>|, predicted one plan ahead",
            key("a", "plan") + key("c", "standing still", dashed=True),
            energy,
        ),
        (
            "How CEM converges",
            "share of standing still&rsquo;s energy; the shown step stands out",
            key("a", "best candidate") + key("c", "mean of the elites"),
            convergence,
        ),
        ("Time to plan", "ms, encoding and optimisation", "", seconds),
    ]
    body = "".join(chart_figure(*figure) for figure in figures)
    return f'<section><h2>What the planner thought</h2><div class="grid2">{body}</div></section>'


def _shares(step: StepRecord, energies: Iterable[float]) -> list[float]:
    """Energies relative to standing still, so that steps far from and near to the goal compare."""
    return [energy / step.zero_energy if step.zero_energy > 0 else math.nan for energy in energies]


def _landscapes(landscapes: tuple[Landscape, ...]) -> str:
    if not landscapes:
        return ""
    return heatmap.section(
        landscapes,
        "What the world model makes of every step in a plane through the chosen action: "
        "light is near to the goal, dark is far, the centre is standing still. A useful model has its "
        "valley at the ring.",
    )


def _episodes(report: Report) -> str:
    if not report.episodes:
        return ""
    rows = [
        [
            str(e.seed),
            '<span class="yes">reached</span>' if e.reached else '<span class="no">not reached</span>',
            _cm(e.start),
            _cm(e.final),
            str(e.steps),
            f"{e.median_plan_seconds * 1000:.0f}",
        ]
        for e in report.episodes
    ]
    reached = sum(e.reached for e in report.episodes)
    header = ["seed", "result", "start [cm]", "end [cm]", "steps", "median plan [ms]"]
    return (
        f"<section><h2>Other seeds: {reached} of {len(rows)} reached</h2>"
        '<p class="note">The same task from other starts to other goals. For figures that mean something '
        "run <code>vjepa-ac sim eval</code>.</p>"
        f"{table(header, rows, numeric=2)}</section>"
    )


def _footer(report: Report) -> str:
    timings = table(
        ["stage", "median [ms]", "p95 [ms]"],
        [[escape(k), f"{m * 1000:.1f}", f"{p * 1000:.1f}"] for k, (m, p) in report.timings.items()],
    )
    versions = table(
        ["part", "version"], [[escape(k), escape(v)] for k, v in report.versions.items()], numeric=2
    )
    limits = (
        f"<section><h2>What this model cannot do</h2><p>{escape(report.limits)}</p></section>"
        if report.limits
        else ""
    )
    return (
        f"{limits}<section><h2>Reproduce</h2><pre>{escape(report.command)}</pre>"
        f'<div class="columns"><div><h3>Time per plan</h3>{timings}</div>'
        f"<div><h3>Made with</h3>{versions}</div></div></section>"
    )
