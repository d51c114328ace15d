from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from vjepa_ac_planner.report.html import render

VOID = {"meta", "img", "input", "br"}


class Tree(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

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


def test_tags_nest_and_nothing_is_fetched(make_report):
    tree = parse(render(make_report()))
    links = [value for name, value in tree.attributes if name in ("src", "href")]
    assert links and all(link.startswith("data:image/") for link in links)
    assert "link" not in tree.tags and "iframe" not in tree.tags
    assert "url(" not in render(make_report())


def test_the_headline_is_the_result(make_report):
    assert "Reached the goal: 20.0 cm → 1.2 cm in 2 steps" in text_of(render(make_report()))
    lost = make_report(reached=False, final_distance=0.31)
    assert "Did not reach the goal: 20.0 cm → 31.0 cm" in text_of(render(lost))
    assert "1.2 cm in 1 stepA simulated" in text_of(render(make_report(steps=({},))))


def test_every_step_is_there_with_its_numbers(make_report):
    text = text_of(
        render(make_report(steps=({}, {"energy": 0.1875}, {"kind": "hold", "reason": "too near"})))
    )
    for expected in ("Step 1", "Step 2", "Step 3", "End", "0.1875", "hold: too near", "123 ms"):
        assert expected in text


def test_everything_promised_is_on_the_page(make_report):
    text = text_of(render(make_report()))
    for expected in (
        "Goal image", "Distance to the goal", "How CEM converges", "The energy landscape", "16×16 pixels",
        "Other seeds: 1 of 2 reached", "One camera only.", "vjepa-ac demo --seed 7", "encode", "2.0",
    ):  # fmt: skip
        assert expected in text, expected


def test_text_from_outside_is_escaped(make_report):
    evil = "<script>alert(1)</script>&"
    report = make_report(
        steps=({"kind": "hold", "reason": evil},),
        **dict.fromkeys(("task", "model", "preset", "stop_reason", "limits", "command"), evil),
        versions={evil: evil},
        timings={evil: (0.1, 0.2)},
    )
    page = render(report)
    assert page.count("<script>") == 1 and "alert(1)&lt;" in page
    parse(page)


def test_images_survive(make_report):
    flat = np.full((64, 64, 3), (200, 100, 50), dtype=np.uint8)
    page = render(make_report(goal_image=flat))
    colours = []
    for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        colours.append(image[..., ::-1].mean(axis=(0, 1)))
    assert any(np.abs(colour - (200, 100, 50)).max() < 4 for colour in colours), "RGB order is kept"


@pytest.mark.parametrize(
    "options",
    [
        {"landscapes": (), "episodes": (), "model_views": {}, "timings": {}, "limits": ""},
        {"steps": ({"energy": np.nan, "zero_energy": np.nan, "best_energy": (), "elite_energy": ()},)},
        {"steps": ({"path": np.array([[np.nan, 1.0], [2.0, 3.0]])},)},
        {"steps": ({"energy": 0.0, "zero_energy": 0.0, "plan_seconds": 0.0, "best_energy": (0.0,)},)},
    ],
    ids=["bare", "no plan", "behind the camera", "all zero"],
)
def test_odd_runs_still_make_a_page(make_report, options):
    page = render(make_report(**options))
    parse(page)
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>|base64,[^\"]*", "", page, flags=re.S).lower()


def test_overlays_use_the_pixels_of_the_records(make_report):
    page = render(make_report())
    assert page.count('points="10.0,20.0 30.5,40.2"') == 4, "dark rim and bright line, for two steps"
    assert 'cx="33.0" cy="44.0"' in page
