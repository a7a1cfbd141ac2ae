"""A rollout says when its sampler is not the trainer's policy, and when nothing stops."""

from __future__ import annotations

import pytest

from integration.shared.sampling import ALLOWED_GAP, sampling_row


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(("factor", "found"), [(0.99, []), (1.01, ["SAMPLER_GAP"]), (float("nan"), ["SAMPLER_GAP"])])
def test_a_gap_is_found_from_what_rounding_explains(low: bool, factor: float, found: list[str]) -> None:
    row = sampling_row(ALLOWED_GAP[low] * factor, 0.5, low=low, new_tokens=8)
    assert [finding["kind"] for finding in row["findings"]] == found


@pytest.mark.parametrize(("ended", "found"), [(0.0, ["NOTHING_ENDS"]), (0.01, []), (1.0, [])])
def test_no_response_that_ends_is_found(ended: float, found: list[str]) -> None:
    row = sampling_row(None, ended, low=False, new_tokens=8)
    assert [finding["kind"] for finding in row["findings"]] == found
    assert "sampler_gap" not in row
    assert all("--max-new-tokens 8" in finding["sentence"] for finding in row["findings"])
