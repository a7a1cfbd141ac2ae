"""Ctrl-C, SIGTERM and a closed terminal ask for a stop; a second request stops at once; afterwards all is as before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from integration.shared.interrupt import Abandoned, StopOnSignal

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Whoever runs the tests under nohup, or in the background, ignores some of them."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stop() -> Iterator[StopOnSignal]:
    """The handlers, taken away afterwards."""
    made = StopOnSignal()
    yield made
    made.leave()
    assert [signal.getsignal(number) for number in NUMBERS] == [signal.default_int_handler] * 3


@pytest.mark.parametrize("number", NUMBERS)
def test_one_signal_is_a_request(stop: StopOnSignal, number: signal.Signals) -> None:
    assert not stop.requested
    os.kill(os.getpid(), number)
    assert stop.requested


@pytest.mark.parametrize("first", NUMBERS)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("stop")
def test_a_second_one_stops_at_once(first: signal.Signals, second: signal.Signals) -> None:
    os.kill(os.getpid(), first)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), second)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "a third one does not wait for anything"


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopOnSignal()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested
    stop.leave()
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_not_printed_to_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write to it is an error, which would end the run before it could save."""
    ours, theirs = os.openpty()
    monkeypatch.setattr(os, "isatty", lambda number: number == 2)
    kept = os.dup(2)
    os.dup2(theirs, 2)
    stop = StopOnSignal()
    try:
        os.close(theirs)
        os.close(ours)  # the terminal is closed
        with pytest.raises(OSError, match="Input/output error"):
            os.write(2, b"x")
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
        assert os.write(2, b"x") == 1
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        stop.leave()


class Two:
    """This process and another one, which was asked to stop or not."""

    rank, count = 0, 2

    def __init__(self) -> None:
        self.local: Any = None
        self.other_asked = False

    def gather(self, own: Any) -> list[Any]:
        return [own, own]

    def any(self, flag: bool) -> bool:
        return flag or self.other_asked


@pytest.fixture
def two() -> Iterator[tuple[Two, StopOnSignal]]:
    """The handlers of a run of two processes, taken away afterwards."""
    ranks = Two()
    made = StopOnSignal(ranks)
    yield ranks, made
    made.leave()


def test_of_several_processes_one_gives_up_its_own_work_alone(two: tuple[Two, StopOnSignal]) -> None:
    """Between two pieces of its own work, where the others wait for it, a signal is a request and nothing more."""
    ranks, stop = two
    with stop.giving_up():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Abandoned), ranks.local():
            pytest.fail("work that is begun after a stop was asked for")
    assert stop.requested


def test_own_work_is_given_up_before_the_first_optimizer_step_only(two: tuple[Two, StopOnSignal]) -> None:
    ranks, stop = two
    with stop.giving_up():
        stop.finish()
        with ranks.local():
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested


def test_a_signal_in_own_work_gives_it_up(two: tuple[Two, StopOnSignal]) -> None:
    ranks, stop = two
    with stop.giving_up(), pytest.raises(Abandoned), ranks.local():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested


def test_a_stop_that_another_process_was_asked_for_is_one_of_all(two: tuple[Two, StopOnSignal]) -> None:
    ranks, stop = two
    assert not stop.asked()
    ranks.other_asked = True
    assert stop.asked()
    with pytest.raises(Abandoned), stop.giving_up():
        pytest.fail("nothing is begun any more")
