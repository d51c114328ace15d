"""The pages of replayed recordings, over made-up records."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from vjepa_ac_planner.report.compass import compass
from vjepa_ac_planner.report.records import Landscape
from vjepa_ac_planner.report.replay_html import render_replay, render_summary
from vjepa_ac_planner.report.replay_records import (
    BagRow,
    FilmFrame,
    ReplayPage,
    ScoreRow,
    SummaryPage,
    Verdict,
    View,
)

VOID = {"meta", "img", "input", "br"}
EVIL = "<script>alert(1)</script>&"


class Tree(HTMLParser):
    """Checks that tags nest, and collects text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def parse(page: str) -> Tree:
    tree = Tree()
    tree.feed(page)
    assert not tree.open
    return tree


def text_of(page: str) -> str:
    return " ".join("".join(parse(page).texts).split())


def without_data(page: str) -> str:
    """The page without style, script and pictures."""
    return re.sub(r"<(style|script)>.*?</\1>|base64,[^\"]*", "", page, flags=re.S)


def picture(size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


VERDICT = Verdict(
    level="good",
    headline="The plans go the recorded way",
    sentences=("Of 24 motions 22 agree.",),
    caveat="It cannot show success.",
    tiles=(("92 %", "", "same direction"),),
    scores=(ScoreRow("Cosine", "0.91", "0.8 … 0.95", (("random", "0.02"),), "direction"),),
    notes=("dx, dy, dz only",),
)


def columns(count: int) -> dict[str, np.ndarray]:
    actors = [
        f"{actor}_{axis}"
        for actor in ("recorded", "planned")
        for axis in ("dx", "dy", "dz", "drz", "dgrip")
    ]
    names = ("index", "at_goal", "energy", "distance", "plan_seconds", "surprise", "surprise_copy",
             "surprise_shuffled", "energy_zero", "energy_recorded", "energy_planned")  # fmt: skip
    return {name: np.linspace(0.0, 0.1, count) * (name != "at_goal") for name in (*names, *actors)}


@pytest.fixture
def make_page():
    def make(count: int = 4, **options) -> ReplayPage:
        film = tuple(
            FilmFrame(
                i, 0.25 * i, picture(), (("energy now", f"0.{i}123"),), np.full(7, 0.02), np.full(7, -0.03)
            )
            for i in range(min(count, 4))
        )
        energies = np.add.outer(np.arange(5.0), np.arange(5.0))
        values = {
            "bag": "run.mcap",
            "model": "panda-sim",
            "preset": "demo",
            "verdict": VERDICT,
            "start": View("the first frame", picture(), picture(16)),
            "goals": (View("frame at 3.0 s", picture(), picture(16)),),
            "film": film,
            "axes": ("dx", "dy", "dz"),
            "columns": columns(count),
            "step_seconds": 0.25,
            "landscapes": (Landscape("Step 1", ("dx", "dy"), 0.06, energies, (0.01, 0.02), (0.0, 0.05)),),
            "refusals": (("max_image_age (hold)", "3"),),
            "skipped": (("duplicate stamp", "7"),),
            "topics": (("image", "/cam"),),
            "identical": "12 of 12 plans again.",
            "timings": {"encode": (0.01, 0.02)},
            "limits": "One camera only.",
            "command": "vjepa-ac replay run.mcap",
            "versions": {"torch": "2.0"},
        }
        return ReplayPage(**{**values, **options})

    return make


def test_the_verdict_comes_first_and_the_caveat_before_the_scores(make_page):
    text = text_of(render_replay(make_page()))
    order = [
        text.index(part, 60)
        for part in (
            "The plans go the recorded way",
            "Of 24 motions",
            "92 %",
            "It cannot show success",
            "0.8 … 0.95",
        )
    ]
    assert order == sorted(order)


def test_everything_promised_is_on_the_page(make_page):
    text = text_of(render_replay(make_page()))
    for expected in (
        "Cosine", "random 0.02", "dx, dy, dz only", "frame at 3.0 s", "16×16 pixels", "Step 3, 0.75 s",
        "0.3123",
        "dz: planned and recorded", "Energy against distance", "Surprise", "The energy landscape",
        "the recorded action, seen in this plane", "max_image_age (hold)", "duplicate stamp", "/cam",
        "12 of 12 plans again.", "One camera only.", "vjepa-ac replay run.mcap", "encode", "2.0",
    ):  # fmt: skip
        assert expected in text, expected


def test_nothing_is_fetched(make_page):
    page = render_replay(make_page())
    assert all(link.startswith("data:image/") for link in parse(page).links)
    assert "url(" not in page and "<link" not in page and "@import" not in page


def test_text_from_outside_is_escaped(make_page):
    page = make_page(
        **dict.fromkeys(("bag", "model", "preset", "identical", "limits", "command"), EVIL),
        verdict=replace(
            VERDICT, headline=EVIL, sentences=(EVIL,), caveat=EVIL, tiles=((EVIL, EVIL, EVIL),),
            notes=(EVIL,), scores=(ScoreRow(EVIL, EVIL, EVIL, ((EVIL, EVIL),), EVIL),), asked=1,
            missed=(EVIL,),
        ),
        goals=(View(EVIL, picture(), picture(16)),),
        film=(FilmFrame(0, 0.0, picture(), ((EVIL, EVIL),), None, None),),
        refusals=((EVIL, EVIL),), skipped=((EVIL, EVIL),), topics=((EVIL, EVIL),),
        versions={EVIL: EVIL}, timings={EVIL: (0.1, 0.2)},
    )  # fmt: skip
    html = render_replay(page)
    assert html.count("<script>") == 1 and "alert(1)&lt;" in html
    parse(html)
    summary = SummaryPage(EVIL, EVIL, page.verdict, (EVIL,), (BagRow(EVIL, EVIL, "good", (EVIL,)),), EVIL)
    failed = replace(summary, bags=(BagRow(EVIL, "", "failed", (), EVIL),))
    for html in map(render_summary, (summary, failed)):
        assert html.count("<script>") == 1
        parse(html)


@pytest.mark.parametrize(
    "options",
    [
        {
            "landscapes": (),
            "refusals": (),
            "skipped": (),
            "topics": (),
            "identical": "",
            "timings": {},
            "limits": "",
        },
        {"count": 1},
        {"axes": ("dx", "dy", "dz", "drz", "dgrip")},
        {"columns": {name: np.full(4, np.nan) for name in columns(4)}},
        {"columns": {name: np.zeros(4) for name in columns(4)}},
    ],
    ids=["bare", "one step", "all axes", "nothing measured", "all zero"],
)
def test_odd_recordings_still_make_a_page(make_page, options):
    html = render_replay(make_page(**options))
    parse(html)
    assert "nan" not in without_data(html).lower()


def test_long_recordings_are_thinned(make_page):
    short, long = (len(without_data(render_replay(make_page(count=count)))) for count in (700, 100_000))
    assert long < 1.2 * short


def test_charts_know_which_step_a_picture_shows(make_page):
    page = render_replay(make_page())
    assert re.findall(r'<figure data-at="(\d+)"', page) == ["0", "1", "2", "3"]


def test_pictures_name_the_goal_that_was_planned_for(make_page):
    page = make_page(goals=tuple(View(f"goal {i}", picture(), picture(16)) for i in range(2)))
    film = tuple(replace(frame, goal=i // 2) for i, frame in enumerate(page.film))
    html = render_replay(replace(page, film=film))
    assert re.findall(r'data-goal="([^"]+)"', html) == ["goal-0", "goal-0", "goal-1", "goal-1"]
    assert re.findall(r"<figure id=(goal-\d)", html) == ["goal-0", "goal-1"]


def test_thresholds_are_told(make_page):
    met = render_replay(make_page(verdict=replace(VERDICT, asked=2)))
    assert "All 2 thresholds that were asked for are met." in text_of(met)
    missed = render_replay(make_page(verdict=replace(VERDICT, asked=2, missed=("--min-cosine 0.9: 0.5",))))
    assert "1 of 2 thresholds are missed" in text_of(missed) and "--min-cosine 0.9: 0.5" in text_of(missed)
    assert "threshold" not in text_of(render_replay(make_page()))


def test_the_summary_links_to_every_page_and_names_what_failed():
    page = SummaryPage(
        "panda-sim", "demo", VERDICT, ("signs",),
        (BagRow("one", "one/report.html", "good", ("92 %",)), BagRow("two", "", "failed", (), "is empty")),
    )  # fmt: skip
    html = render_summary(page)
    assert [link for link in parse(html).links if not link.startswith("data:")] == ["one/report.html"]
    assert "agrees" in text_of(html) and "is empty" in text_of(html)


def test_arrows_point_as_on_a_map():
    """x (forward) is up, y (left) is to the left; heights are apart."""

    def end(action) -> tuple[float, float]:
        path = re.search(r'd="M([\d.,]+)L([\d.,]+)M', compass(None, np.array(action), 0.05))
        (x0, y0), (x1, y1) = (map(float, group.split(",")) for group in path.groups())
        return x1 - x0, y1 - y0

    assert end([0.05, 0, 0, 0, 0, 0, 0]) == (0.0, -15.0)
    assert end([0, 0.05, 0, 0, 0, 0, 0]) == (-15.0, 0.0)
    assert end([0, 0, 0.05, 0, 0, 0, 0]) == (0.0, -15.0)
    assert "circle" in compass(np.zeros(7), None, 0.05), "no motion is a dot"
    assert compass(None, np.full(7, np.nan), 0.05) == compass(None, None, 0.05)
