"""Ray's workers, or its driver, killed at random moments: is every prompt scored, and once?

python tests/faults/ray_killed.py --runs 10             ten runs, a worker killed in each
python tests/faults/ray_killed.py --runs 10 --driver    the driver killed, and started again
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.dataset
import torch
from processes import emoe, ended, start, wait_for
from pyarrow import parquet

from emoe import EMoE

COUNT = 120
SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--driver", action="store_true")
    options = parser.parse_args()
    expected = undisturbed()
    whole = 0
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            told = killed(Path(folder), SEED + number, options.driver)
            same = records(Path(folder) / "scores") == expected
        whole += same
        print(f"run {number + 1}: {told}; {'complete' if same else 'NOT what one process scores'}", flush=True)
    print(f"{whole} of {options.runs} runs ended with the {COUNT} records of one process")
    raise SystemExit(whole != options.runs)


def prompts() -> list[str]:
    return [f"a {colour} {shape} {n}" for n in range(10) for colour in ("red", "blue", "mörk") for shape in "abcd"]


def undisturbed() -> list[dict[str, Any]]:
    """By one process, without Ray."""
    torch.set_num_threads(1)
    found = EMoE.from_toml("miniature", device="cpu").score(prompts()).records()
    return [{"id": number} | record for number, record in enumerate(found)]


def records(folder: Path) -> list[dict[str, Any]]:
    """By id, without the columns that this list lacks."""
    rows = pyarrow.dataset.dataset(folder, format="parquet").to_table().sort_by("id").to_pylist()
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def command(folder: Path) -> list[str]:
    path = folder / "list.parquet"
    if not path.exists():
        parquet.write_table(pyarrow.table({"id": range(COUNT), "prompt": prompts()}), path)
    return ["score", "--weights", "miniature", "--prompts", str(path), "--out", str(folder / "scores"), "--ray"]


def killed(folder: Path, seed: int, driver: bool) -> str:
    """A run with a worker killed in it, or the driver killed and then started again. Says what was done."""
    chance = random.Random(seed)
    files, later = chance.randrange(5), chance.uniform(0, 2)
    process = start(*command(folder), start_new_session=True)
    wait_for(lambda: written(folder) >= files, process)
    time.sleep(later)  # the moment itself is what is random
    there = written(folder)
    victims = [process.pid] if driver else sorted(workers(process.pid))
    if victims:  # else the run has ended already
        os.kill(chance.choice(victims), signal.SIGKILL)
    told = f"{'driver' if driver else 'worker'} killed {later:.2f} s after {files} files, {there} of them written"
    code, _, err = ended(process)
    if driver:
        assert code == -signal.SIGKILL, err
        code, _, err = emoe(*command(folder))
    assert code == 0, err
    return told


def written(folder: Path) -> int:
    """Files whose ids Ray knows to be written."""
    return sum(not path.name.endswith(".pending.parquet") for path in (folder / "scores" / "_done").glob("*.parquet"))


def workers(driver: int) -> list[int]:
    """The processes of this driver's Ray that hold a model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker") and os.getsid(pid) == driver:
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


if __name__ == "__main__":
    main()
