"""Two processes with one place to write to."""

from __future__ import annotations

import signal

import pytest
from processes import contents, emoe, ended, locked, one_line, start, undisturbed, wait_for, work

from emoe.errors import EmoeError
from emoe.exclusive import exclusive

pytestmark = pytest.mark.faults


def test_the_second_is_told(tmp_path):
    """And the first one's records are as if nothing had been."""
    first = start(*work("score", tmp_path))
    wait_for(lambda: locked(tmp_path), first)
    first.send_signal(signal.SIGSTOP)  # however fast it is
    one_line(emoe(*work("score", tmp_path)), "another emoe is writing", "scores.jsonl", "name another --out")
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    assert contents(tmp_path) == undisturbed("score")


PLACES = {
    "calibrate": "reference.json",
    "generate": "drawn/generations.jsonl",
    "score": "scores.jsonl",
    "study": "studied/scores.jsonl",
}


@pytest.mark.parametrize("command", PLACES)
def test_every_command_that_goes_on_asks(command, run, tmp_path):
    """Before it loads anything."""
    place = tmp_path / PLACES[command]
    place.parent.mkdir(exist_ok=True)
    with exclusive(place):
        code, out, err = run(*work(command, tmp_path))
    one_line((code, out, err), "another emoe is writing")
    assert not locked(tmp_path)


def test_a_killed_process_holds_nothing(tmp_path):
    process = start(*work("score", tmp_path))
    wait_for(lambda: locked(tmp_path), process)
    process.kill()
    ended(process)
    assert locked(tmp_path)  # its file is there still
    with exclusive(tmp_path / "scores.jsonl"), pytest.raises(EmoeError), exclusive(tmp_path / "scores.jsonl"):
        pass
    assert not locked(tmp_path)
