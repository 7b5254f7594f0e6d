"""Does memory stay, hour after hour and request after request?

python tests/faults/endurance.py --small                        some seconds of both
python tests/faults/endurance.py --minutes 60                   one long list, scored as `emoe score --out` does
python tests/faults/endurance.py --requests 10000               of all kinds through the Python API, bad ones too

Resident memory is sampled, and a line is fitted to the samples after the first fifth, in which the heap settles.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from card import show

from emoe import EMoE, EmoeError
from emoe.explaining import explain
from emoe.heap import keep_freed_memory
from emoe.records import USUAL, RecordFile
from emoe.scored import scored
from emoe.scores import Reading

PART = 500  # prompts a file
SETTLES = 0.2  # of the run
CONSTANT = 0.01  # of the memory: what the fitted line may rise by from its beginning to its end
WORDS = ["a", "the", "red", "blue", "large", "circle", "star", "bus", "rouge", "punainen", "kırmızı", "赤い", "🚌"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="of scoring a list")
    parser.add_argument("--requests", type=int, default=0, help="of all kinds")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--weights", default="miniature")
    parser.add_argument("--samples", type=int, default=60, help="of memory, over each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.small:
        options.minutes, options.requests, options.samples = 0.1, 60, 10
    if not options.minutes and not options.requests:
        parser.error("how long? --minutes, --requests or --small")
    keep_freed_memory()  # as the command line does
    model = EMoE.from_toml(options.weights)
    chance = random.Random(options.seed)
    settled = []
    if options.minutes:
        run = endless(model, chance)
        settled.append(watch("minutes of scoring", run, options.minutes, clock(), options.samples, not options.small))
    if options.requests:
        run = requests(model, chance)
        settled.append(watch("requests", run, options.requests, count(1).__next__, options.samples, not options.small))
    return 0 if all(settled) else 1


def clock() -> Callable[[], float]:
    """Minutes from now on."""
    start = time.monotonic()
    return lambda: (time.monotonic() - start) / 60


def watch(what: str, run: Iterator[int], length: float, where: Callable[[], float], samples: int, judged: bool) -> bool:
    """Run until `where` is at `length`; print memory on the way, and what it comes to. Whether it stayed."""
    rows, done, at = [], 0, 0.0
    while at < length:
        done += next(run)
        at = where()
        if at >= length * (len(rows) + 1) / samples:
            gc.collect()
            rows.append(
                {what: round(at, 2), "done": done, "resident MB": resident() / 1e6, "objects": len(gc.get_objects())}
            )
            print("  ".join(f"{key} {value:,.6g}" for key, value in rows[-1].items()), flush=True)
    late = [row for row in rows if row[what] >= SETTLES * length]
    memory = statistics.linear_regression([row[what] for row in late], [row["resident MB"] for row in late])
    objects = statistics.linear_regression([row[what] for row in late], [row["objects"] for row in late])
    rise = memory.slope * (late[-1][what] - late[0][what]) / late[-1]["resident MB"]
    stays = rise < CONSTANT
    unit, per = ("a minute", 1) if what.startswith("minutes") else ("per thousand requests", 1000)
    show(
        f"Does memory stay, over {what}?",
        [rows[0], *late[:: max(1, len(late) // 6)], late[-1]],
        **{
            f"kB {unit}": round(memory.slope * 1000 * per, 2),
            f"objects {unit}": round(objects.slope * per, 2),
            "rise of the fitted line": f"{rise:.2%}",
            "verdict": ("it stays" if stays else "it GROWS") if judged else "too short to say",
        },
    )
    return stays or not judged


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sentence(chance: random.Random, longest: int = 12) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))


def endless(model: EMoE, chance: random.Random) -> Iterator[int]:
    """A list without an end, written as records; how many prompts were done, batch by batch."""
    reading = model.at_own_size(Reading())
    with tempfile.TemporaryDirectory() as folder:
        for number in count():
            rows = [{"prompt": f"{sentence(chance)} {i}", "negative_prompt": ""} for i in range(PART)]
            file = RecordFile(Path(folder) / f"{number}.jsonl", rows, USUAL)
            for records in scored(model, rows, reading, None):
                file.write(records)
                yield len(records)
            file.path.unlink()


def requests(model: EMoE, chance: random.Random) -> Iterator[int]:
    """One after the other, each another kind."""
    while True:
        kind = chance.choices([score, generate, explained, refused], [70, 5, 3, 22])[0]
        kind(model, chance)
        yield 1


def score(model: EMoE, chance: random.Random) -> None:
    prompts = [sentence(chance, 100 if chance.random() < 0.02 else 12) for _ in range(chance.randint(1, 3))]
    settings = {
        "size": chance.choice([64, 64, 64, 128]),
        "seed": chance.randrange(1000),
        "seeds": chance.choice([1, 1, 2]),
        "estimator": chance.choice(["eu", "eu-over-answer"]),
        "read_out": chance.choice(["post", "pre"]),
        "timestep": chance.choice([None, 1, 500]),
        "batch_size": chance.choice([None, 2, 3, 8]),
    }
    found = model.score(prompts, sentence(chance) if chance.random() < 0.3 else "", **settings)
    assert len(found.records()) == len(prompts)


def generate(model: EMoE, chance: random.Random) -> None:
    mode, scheduler = chance.choice(["fast", "fast", "emoe"]), chance.choice(["ddim", "ddpm", "dpm++"])
    limit = chance.choice([None, 0.0])
    made = model.generate(
        [sentence(chance)],
        mode=mode,
        scheduler=scheduler,
        steps=2,
        size=64,
        seed=chance.randrange(9),
        max_uncertainty=limit,
    )
    assert made[0].record()["halted"] == (limit is not None)


def explained(model: EMoE, chance: random.Random) -> None:
    assert explain(model, sentence(chance, 4), "", Reading(size=64, seeds=2)).record()["map"]


BAD = [
    lambda model: model.score([]),
    lambda model: model.score(["a", "b"], ["c"]),
    lambda model: model.score("a", size=65),
    lambda model: model.score("a", size="large"),
    lambda model: model.score("a", estimator="best"),
    lambda model: model.score("a", seed=-1),
    lambda model: model.score("a", batch_size=0),
    lambda model: model.score("a\ud800"),
    lambda model: model.score([3]),
    lambda model: model.score(["a", " "], estimator="eu-over-answer", size=64),
    lambda model: model.generate("a", mode="slow"),
    lambda model: model.generate("a", guidance=0),
    lambda model: explain(model, "a " * 100),
    lambda model: EMoE.from_toml("gone.toml"),
]


def refused(model: EMoE, chance: random.Random) -> None:
    try:
        chance.choice(BAD)(model)
    except EmoeError:
        return
    raise AssertionError("a bad request was not refused")


if __name__ == "__main__":
    sys.exit(main())
