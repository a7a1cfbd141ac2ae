"""How long a run will take: said once, from the second and third rollout and the evaluations so far."""

from __future__ import annotations

import pytest

from integration.shared.pace import Pace, duration


@pytest.mark.parametrize(
    ("eval_every", "evaluations", "line"),
    [
        # rollouts 2 and 3 took 2 s on average, 397 are left; evaluated at 50, 100, ..., 400
        (
            50,
            [{"seconds": 10.0}, {"seconds": 14.0}],
            "about 15 min for 397 more rollouts and 8 evaluations (2 s a rollout, 12 s an",
        ),
        (0, [{"seconds": 600.0}], "about 23 min for 397 more rollouts and 1 evaluation (2 s a rollout, 600 s an evaluation)"),
        (
            150,
            [],
            "about 13 min for 397 more rollouts and 3 evaluations (2 s a rollout, evaluations not counted, none was timed)",
        ),
        (50, [{"step": 0}], "about 13 min for 397 more rollouts and 8 evaluations (2 s a rollout, evaluations not counted"),
    ],
)
def test_the_estimate_is_what_is_left(
    eval_every: int, evaluations: list[dict[str, float]], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = Pace(rollouts=400, done=0, eval_every=eval_every)
    for seconds in (100.0, 1.0, 3.0, 50.0):
        pace.after_rollout(seconds, evaluations)
    printed = capsys.readouterr().out
    assert printed.startswith(line)
    assert printed.count("about") == 1, "said once"


def test_a_resumed_run_counts_from_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    pace = Pace(rollouts=400, done=390, eval_every=50)
    for _ in range(3):
        pace.after_rollout(2.0, [{"seconds": 6.0}])
    assert capsys.readouterr().out.startswith("about 20 s for 7 more rollouts and 1 evaluation")


def test_a_run_that_is_over_by_then_has_no_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    pace = Pace(rollouts=3, done=0, eval_every=0)
    for _ in range(3):
        pace.after_rollout(2.0, [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (91, "2 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_durations_are_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
