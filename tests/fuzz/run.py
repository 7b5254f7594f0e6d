"""Fuzz one target, guided by what it covers.

    python tests/fuzz/run.py weights-toml --runs 100000 --seed 1 [CORPUS]

Starts from the target's seeds and from tests/fuzz/corpus/, and stops at the first find, which is kept in --finds. New
inputs that reach new code are kept in CORPUS, if that is named. The last line is a JSON object: what was run, for how
long, with how much memory. Without atheris (pip install -e '.[fuzz]') bytes are changed at random, with no guide.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
SPACE = 8 * 2**30  # bytes that the process may map beyond what it has at the start
LONGEST = 8192  # bytes of an input
# What is looked into for coverage, besides emoe: where files are taken apart in Python.
PARSERS = ["emoe", "tomllib", "zipfile", "json", "pickletools"]

try:
    import atheris
except ModuleNotFoundError:
    atheris = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[1]))
    shared = Path("/dev/shm")  # in memory, where there is such a folder
    scratch = Path(tempfile.mkdtemp(prefix="emoe-fuzz-", dir=shared if shared.exists() else None))
    tempfile.tempdir = str(scratch)
    if atheris:
        looking = atheris.instrument_imports(include=PARSERS)
    else:
        print("atheris is not installed (pip install -e '.[fuzz]'): changing bytes at random instead", file=sys.stderr)
        looking = nullcontext()
    with looking:
        from targets import TARGETS

        if options.target not in TARGETS:
            parser.error(f"there is no target {options.target}; choose one of {', '.join(TARGETS)}")
        target = TARGETS[options.target]
        run = target.begin(scratch)
    _fuzz(options, target, run, scratch)


def _fuzz(options: argparse.Namespace, target, run: Callable[[bytes], None], scratch: Path) -> None:
    from watch import judge

    options.finds.mkdir(parents=True, exist_ok=True)
    corpus = options.corpus or scratch / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    kept = [path.read_bytes() for path in sorted((HERE / "corpus" / options.target).glob("*"))]
    for data in (*target.seeds(), *kept):
        (corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
    start, count = time.monotonic(), 0

    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        judge(run, data, scratch)
        if count == options.runs:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            told = {"target": options.target, "runs": count, "seed": options.seed, "guided": atheris is not None}
            told |= {"seconds": round(time.monotonic() - start, 1), "peak_mb": round(peak)}
            print(json.dumps(told | {"corpus": sum(1 for _ in corpus.iterdir())}), flush=True)
            shutil.rmtree(scratch)  # here, as libFuzzer does not return
            signal.setitimer(signal.ITIMER_REAL, 0)  # its time limit, which it leaves running

    if atheris:
        words = scratch / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        arguments = [sys.argv[0], str(corpus), f"-atheris_runs={options.runs}", f"-seed={options.seed}", "-timeout=10"]
        arguments += [f"-rss_limit_mb={SPACE // 2**20}", f"-max_len={LONGEST}", f"-dict={words}", "-verbosity=0"]
        atheris.Setup([*arguments, f"-artifact_prefix={options.finds}/{options.target}-"], once)
        atheris.Fuzz()
    else:
        _at_random(once, sorted(corpus.iterdir()), target.words, options)


def _at_random(once: Callable[[bytes], None], seeds: list[Path], words: tuple[str, ...], options) -> None:
    chance, inputs = random.Random(options.seed), [path.read_bytes() for path in seeds]
    for _ in range(options.runs):
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = [chance.randrange(256)]
                case 1:
                    del data[at : at + chance.randrange(1, 20)]
                case 2:
                    data[at:at] = chance.choice(words or ("",)).encode()
                case 3:
                    data[at:at] = chance.choice(inputs)[: chance.randrange(200)]
        try:
            once(bytes(data[:LONGEST]))
        except BaseException:
            (options.finds / f"{options.target}-{sha256(data).hexdigest()[:16]}").write_bytes(data[:LONGEST])
            raise


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main()
