"""Processes that are killed and started again: the result is that of a run that nothing happened to."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from conftest import hear_sigint
from processes import PROMPTS, WORK, contents, ended, lines, locked, start, undisturbed, wait_for, work

pytestmark = pytest.mark.faults

RECORDS = {"score": 18, "calibrate": 18, "generate": 5, "study": 12}  # that each writes on its way
KILLS = {"score": 2, "calibrate": 2, "generate": 2, "study": 2}
SEED = 7


@pytest.mark.parametrize("command", WORK)
def test_killed_again_and_again(command, run, tmp_path):
    """At random moments: some records after the start, and up to the time that a record takes later."""
    chance = random.Random(f"{SEED} {command}")
    expected = undisturbed(command)
    for _ in range(KILLS[command]):
        process = start(*work(command, tmp_path))
        before, later = lines(tmp_path), chance.uniform(0, 0.1)
        more = chance.randrange(RECORDS[command] // KILLS[command])
        wait_for(lambda: locked(tmp_path), process)
        wait_for(lambda goal=before + more: lines(tmp_path) >= goal, process)
        time.sleep(later)  # the moment itself is what is random
        process.send_signal(signal.SIGKILL)
        code, _, err = ended(process)
        print(f"seed {SEED}: killed {later:.3f} s after {more} records more than {before}; then {lines(tmp_path)}")
        assert (code, err) == (-signal.SIGKILL, "")
    code, _, err = run(*work(command, tmp_path))
    assert code == 0, err
    assert contents(tmp_path) == expected


def test_nothing_is_lost_or_doubled(tmp_path):
    """What `test_killed_again_and_again` compares with holds every prompt once, in order."""
    for command, name in (("score", "scores.jsonl"), ("generate", "drawn/generations.jsonl")):
        records = [json.loads(line) for line in undisturbed(command)[name].splitlines()]
        assert [record["prompt"] for record in records] == PROMPTS[: len(records)]
    assert len(json.loads(undisturbed("calibrate")["reference.json"])["uncertainty"]) == len(PROMPTS)


def test_stopped(run, tmp_path):
    """By a scheduler: one line, no lock and no half file stays, and the run goes on."""
    process = start(*work("score", tmp_path))
    wait_for(lambda: lines(tmp_path) >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (128 + signal.SIGTERM, "", "emoe: stopped\n")
    assert not locked(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert run(*work("score", tmp_path))[0] == 0
    assert contents(tmp_path) == undisturbed("score")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_loads(number, tmp_path):
    """While torch is being imported, or weights are read: libraries make errors of their own of the interruption."""
    process = start(*work("score", tmp_path), preexec_fn=hear_sigint)
    wait_for(lambda: locked(tmp_path), process)
    time.sleep(random.Random(SEED).uniform(0, 1))  # the moment itself is what is random
    process.send_signal(number)
    assert ended(process) == (128 + number, "", "emoe: stopped\n")
    assert contents(tmp_path) == {}
