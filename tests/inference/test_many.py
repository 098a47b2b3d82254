# SPDX-License-Identifier: MIT
"""The loop over many pictures: counts, retries, returned values, and state after a signal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest

from crfrnn.crf import InputWarning
from crfrnn.inference.many import Tally, many, processes_for
from crfrnn.lattice.validate import warn


def halves(jobs: Sequence[int]) -> list[float]:
    if 3 in jobs:
        raise ValueError(f"job: expected no 3, got it in {len(jobs)}")
    if 4 in jobs:
        warn("job: 4 is odd")
    return [job / 2 for job in jobs]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"batch": 3}, {"batch": 2, "processes": 2}])
def test_failures_do_not_stop_the_run_and_are_counted(how: dict[str, int]) -> None:
    values, seen = {}, []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tally = many(
            range(6), halves, name=lambda job: f"p{job}.png", finished=lambda job: job == 1,
            found=values.__setitem__, progress=lambda *counts: seen.append(counts), **how,
        )  # fmt: skip
    assert (tally.total, tally.done, tally.skipped, tally.stopped) == (6, 4, 1, False)
    assert values == {0: 0.0, 2: 1.0, 4: 2.0, 5: 2.5}
    assert tally.failed == {"p3.png": "job: expected no 3, got it in 1"}  # retried on its own
    assert tally.problems() == ["p3.png: job: expected no 3, got it in 1", "1 of 6 pictures failed"]
    assert seen == [(done, 6) for done in range(1, 7)]
    assert {str(w.message) for w in told if w.category is InputWarning} == {"job: 4 is odd"}


def test_a_tally_holds_what_was_done_before_an_exception() -> None:
    tally = Tally()
    with pytest.raises(ValueError, match="no 3"):
        many(range(6), halves, tally, strict=True)
    assert (tally.total, tally.done, tally.failed) == (6, 3, {})

    def stopped(jobs: Sequence[int]) -> list[int]:
        if 2 in jobs:
            raise KeyboardInterrupt
        return list(jobs)

    tally = Tally()
    with pytest.raises(KeyboardInterrupt):
        many(range(6), stopped, tally)
    assert (tally.done, tally.failed) == (2, {})


def test_there_are_no_more_processes_than_jobs() -> None:
    assert processes_for(None, "cpu", 1) == processes_for(None, "cuda", 9) == 1
    assert processes_for(3, "cpu", 1) == 3
    with pytest.raises(ValueError, match="processes: expected at least 1"):
        processes_for(0, "cpu", 1)
    with pytest.raises(ValueError, match="processes: expected 1 on cuda"):
        processes_for(2, "cuda", 9)
