"""What emoe wrote itself and reads again: records, and references."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from target import JSON_WORDS, Target, refusals
from watch import Run


def records(folder: Path) -> Run:
    from emoe.records import RecordFile

    path = folder / "scores.jsonl"
    rows = [{"id": i, "prompt": text, "negative_prompt": ""} for i, text in enumerate("ab")]

    def run(data: bytes) -> None:
        path.write_bytes(data)
        file = RecordFile(path, rows)
        refusals(lambda: file.check({"seed": 0, "mixture": "12345678"}))
        file.keep(1)

    return run


def scores() -> Iterator[bytes]:
    record = {"id": 0, "prompt": "a", "negative_prompt": "", "eu": 1.5, "seed": 0, "mixture": "12345678"}
    whole = json.dumps(record, separators=(",", ":")).encode()
    other = whole.replace(b'0,"prompt":"a"', b'1,"prompt":"b"')
    yield from (
        b"",
        whole + b"\n",
        whole + b"\n" + other + b"\n",
        whole + b"\n" + other[:50],
        whole[:20],
        b"hello",
        b"[1]\n",
    )
    for value in (None, [[1]], "x\\ny", 10**30, {}):
        yield json.dumps(record | {"seed": value}).encode() + b"\n"


def references(folder: Path) -> Run:
    from emoe.reference import load_reference

    path = folder / "reference.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        reference = load_reference(path)
        reference.percentile(1.5)
        reference.check(reference.reading, "x")

    return run


def calibrated() -> Iterator[bytes]:
    told = {"emoe": "reference", "mixture": "x", "seed": 0, "seeds": 1, "timestep": 961, "size": 64}
    told |= {"read_out": "post", "estimator": "eu", "uncertainty": [0.5, 1.0, 2.0]}
    yield json.dumps(told).encode()
    for key in told:
        for value in (None, 10**400, [[1]], "x", {}):
            yield json.dumps(told | {key: value}).encode()
    yield json.dumps(told).replace("2.0", "1e999").encode()


TARGETS = {
    "records": Target(records, scores, (*JSON_WORDS, "mixture", "seed")),
    "reference": Target(references, calibrated, (*JSON_WORDS, "uncertainty", "size", "seeds")),
}
