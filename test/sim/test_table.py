from __future__ import annotations

from vjepa_ac_planner.sim.evaluate import TrialResult, summarise
from vjepa_ac_planner.sim.table import HEADINGS, PUBLISHED, Row, causes, cell, markdown
from vjepa_ac_planner.sim.tasks import TASKS


def summary(task: str, successes: int, trials: int = 10) -> dict[str, object]:
    return cell(
        summarise(
            [
                TrialResult(
                    task,
                    i,
                    i < successes,
                    (0.2, 0.01),
                    1,
                    "settled",
                    (),
                    "" if i < successes else "dropped",
                )
                for i in range(trials)
            ]
        )
    )


def test_cells_stand_under_their_heading_beside_the_published_ones() -> None:
    row = Row("ours", {"grasp_cup": summary("grasp_cup", 9), "reach": summary("reach", 10)})
    header, _, ours, *published = markdown([row]).splitlines()
    assert header.split(" | ")[1:] == [*HEADINGS[:-1], HEADINGS[-1] + " |"]
    cells = [text.strip() for text in ours.strip("|").split("|")]
    assert cells[:3] == ["ours", "100 (72 to 100, n=10)", "90 (60 to 98, n=10)"] and cells[3:] == [""] * 4
    assert len(published) == len(PUBLISHED)
    assert "| 100 | 65 | 25 | cup 75, box 75 | 80 | 65 |" in published[0]
    assert all(line.count("|") == len(TASKS) + 2 for line in markdown([row]).splitlines())


def test_failures_are_counted_by_cause() -> None:
    row = Row("ours", {"grasp_cup": summary("grasp_cup", 7), "reach": summary("reach", 10)})
    assert causes([row]).splitlines()[2:] == ["| ours | grasp cup | 3 | 3 dropped |"]
    assert causes([Row("ours", {"reach": summary("reach", 10)})]) == ""
