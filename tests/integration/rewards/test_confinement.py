"""What holds the process that judges answers."""

from __future__ import annotations

import signal

import pytest

from integration.rewards.confinement import Hook, timer
from integration.rewards.verdicts import Limits


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer of processor time")
def test_the_kernel_counts_processor_time_anew_for_every_answer() -> None:
    """Else an answer that computes for ever would only end with the wall clock, several times later."""
    restart = timer(Limits(seconds=50.0))
    try:
        signal.setitimer(signal.ITIMER_PROF, 7.0)
        restart()
        assert 7.0 < signal.getitimer(signal.ITIMER_PROF)[0] <= 50.1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


@pytest.mark.parametrize(
    ("event", "args", "refused"),
    [
        ("open", ("a", "r", 0), False),
        ("open", ("a", "w", 0o1101), True),
        ("socket.connect", (), True),
        ("os.system", (b"ls",), True),
        ("os.remove", ("a", -1), True),
        ("compile", (), False),
        ("import", ("numpy",), False),
    ],
)
def test_a_verifier_may_read_and_compute_and_no_more(event: str, args: tuple[object, ...], refused: bool) -> None:
    hook = Hook()
    if refused:
        with pytest.raises(PermissionError, match=f"an answer must not do this: {event}"):
            hook(event, args)
    else:
        hook(event, args)
    assert hook.refused == refused
