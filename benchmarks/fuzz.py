"""Coverage-guided fuzzing of what reads bytes from outside: ``python -m benchmarks.fuzz [--seconds S] [TARGET ...]``

Targets: frames (against websocket-client's reader), inflate (a batch against its messages), session, simulator. Each
runs in a process of its own for its share of the time, from the seeds in ``tests/seeds``; inputs that reach new code
are kept there with ``--keep``, and an input that breaks a rule is written there as ``fault-*`` and replayed by the
suite from then on. Needs atheris; exit status 1 when a fault was found.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import FrameType

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = ROOT / "tests" / "seeds"
NAMES = ("frames", "inflate", "session", "simulator")

#: Seeds stay small enough to be kept in the repository, bytes.
LARGEST = 2048


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:  # what follows is the fuzzer's
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep what reached new lines as seeds")
    options = parser.parse_args()
    unknown = set(options.targets) - set(NAMES)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    faults = sum(run(name, options) for name in options.targets or NAMES)
    return 1 if faults else 0


def run(name: str, options: argparse.Namespace) -> int:
    """Fuzz one target in a process of its own and print what came of it; the number of faults."""
    seeds = SEEDS / name
    seeds.mkdir(parents=True, exist_ok=True)
    before = set(seeds.glob("fault-*"))
    with tempfile.TemporaryDirectory() as corpus:
        settings = [
            f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-max_len={LARGEST}",
            f"-artifact_prefix={seeds}/fault-", "-print_final_stats=1",
        ]  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.fuzz", "--inside", name]
        done = subprocess.run([*command, *settings, corpus, str(seeds)], cwd=ROOT, capture_output=True, text=True)
        if options.keep and not done.returncode:
            keep(name, seeds, pathlib.Path(corpus))
        kept = len(list(seeds.iterdir()))
    cases = re.search(r"number_of_executed_units:\s+(\d+)", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    faults = set(seeds.glob("fault-*")) - before
    print(
        f"fuzz: {name}: {cases[1] if cases else '?'} cases in {options.seconds} s, "
        f"{reached[-1] if reached else '?'} edges reached, {kept} seeds, {len(faults)} faults",
        flush=True,
    )
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-40:]), file=sys.stderr)
    return max(len(faults), 1 if done.returncode else 0)


def keep(name: str, seeds: pathlib.Path, corpus: pathlib.Path) -> None:
    """Add to the seeds the smallest inputs that take steps from line to line which no seed takes."""
    sys.path.insert(0, str(ROOT))
    from tests.fuzz_targets import TARGETS

    known: set[object] = set()
    for path in seeds.iterdir():
        known |= steps(TARGETS[name], path.read_bytes())
    for path in sorted(corpus.iterdir(), key=lambda path: path.stat().st_size):
        taken = steps(TARGETS[name], path.read_bytes())
        if taken - known:
            known |= taken
            (seeds / path.name[:12]).write_bytes(path.read_bytes())


def steps(target: Callable[[bytes], None], data: bytes) -> set[object]:
    """From which line to which line of the package an input leads."""
    taken: set[object] = set()

    def enter(frame: FrameType, event: str, argument: object) -> object:
        file = frame.f_code.co_filename
        if "crux_sync" not in file:
            return None
        last = 0

        def step(frame: FrameType, event: str, argument: object) -> object:
            nonlocal last
            taken.add((file, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return taken


def fuzz(name: str, settings: list[str]) -> None:
    """Inside the process of one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["crux_sync", "tests.fuzz_targets"]):
        from tests.fuzz_targets import TARGETS
    atheris.Setup([sys.argv[0], *settings], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
