"""Linear layers with few bits per weight beside other libraries and the machine's limits, all in one run.

`python benchmarks/linear.py [--shapes 4096x4096,1536x384] [--m 1,128] [--threads 1,2] [--encodings int4,ternary]
[--json FILE]`: whole layers from float inputs to float outputs, so that the quantisation of inputs and the building of
tables count, ours as theirs. The systems run in turns; times are medians. `--quick` is a look in less than a minute.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
import limits  # these stand beside this file
import linear_plot
import linear_table
from linear_case import Arrays, Loaded, Shape, System, Work, check, inputs, leaves_caches
from linear_systems import nomul_artifact

from nomul.backends.target import find_target
from nomul.ir.registry import modules_of
from nomul.timing import Job, measure

SHAPES = "4096x4096,14336x4096,1536x384,384x1536"
ROWS = "1,8,32,128,512"
RUNS = 5  # at a stretch of layers that stay in the caches, where the system before left its own weights
FEW = 8  # rows up to which weights are also read from memory
QUICK = {
    "shapes": "4096x4096",
    "m": "1,128",
    "threads": "1",
    "encodings": "int8,int4<group=128>,ternary<group=128>,ternary<group=128, pack=3of4>",
    "seconds": 0.2,
}
Row = dict[str, Any]


def systems(target: str, encodings: Sequence[str], huge_pages: bool, wanted: Sequence[str]) -> list[System]:
    """Ours for each encoding, then all others. wanted: parts of names of systems; all where it is empty."""
    found = list(nomul_artifact.systems(target, encodings, huge_pages))
    for module in modules_of("linear_systems"):
        if module is not nomul_artifact:
            found += module.systems()
    return [one for one in found if not wanted or any(part in f"{one.name} {one.encoding}" for part in wanted)]


def run_case(
    work: Work, found: Sequence[System], rows: Sequence[int], seconds: float, notes: dict[str, str]
) -> Iterator[tuple[limits.Limits, list[Row], limits.Limits]]:
    """For each number of rows what was measured, between two measurements of the limits.

    notes: takes what is left out, and why."""
    loaded: dict[System, Loaded] = {}
    for system in found:
        try:
            loaded[system] = system.load(work)
        except ModuleNotFoundError as error:
            notes[system.name] = str(error)
        except (ValueError, NotImplementedError) as error:
            notes[f"{system.name} {system.encoding} {work.shape}"] = str(error)
    for count in rows:
        before = limits.measure(work.threads)
        measured = list(_measure(work, loaded, count, seconds))
        after = limits.measure(work.threads)
        yield before, list(with_limits(measured, (before, after))), after


def _measure(work: Work, loaded: dict[System, Loaded], rows: int, seconds: float) -> Iterator[Row]:
    values = {system: inputs(work, rows, item.copies) for system, item in loaded.items()}
    for system, item in loaded.items():
        check(system, item, values[system], work)
    runs = RUNS if rows <= FEW and not work.in_memory else 1

    def job(item: Loaded, given: Arrays) -> Job:
        return lambda: [item.run(given) for _ in range(runs)]

    jobs = {str(number): job(item, values[system]) for number, (system, item) in enumerate(loaded.items())}
    for (system, item), times in zip(loaded.items(), measure(jobs, seconds * len(jobs), least=5).values(), strict=True):
        ms, low, p90 = (time / item.copies / runs for time in (times.p50, times.low, times.p90))
        yield {
            "system": system.name,
            "encoding": system.encoding,
            "bits_per_weight": round(8 * item.layer_bytes / work.shape.weights, 3),
            "weights": "memory" if work.in_memory else "cache",
            "m": rows,
            "n": work.shape.n,
            "k": work.shape.k,
            "threads": work.threads,
            "ms": _digits(ms),
            "low_ms": _digits(low),
            "p90_ms": _digits(p90),
            "gbps": _digits(item.layer_bytes / ms / 1e6),
            "gops": _digits(2 * rows * work.shape.weights / ms / 1e6),
            "copies": item.copies,
            "kernel": item.kernel,
        }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def with_limits(rows: Sequence[Row], measured: Sequence[limits.Limits]) -> Iterator[Row]:
    """The rows with their shares of the best that the machine did beside them."""
    read, dot = max(item.read_gbs for item in measured), max(item.int8_gops for item in measured)
    for row in rows:
        shares = {"fraction_of_read_bandwidth": _digits(row["gbps"] / read)}
        yield row | shares | {"fraction_of_int8_peak": _digits(row["gops"] / dot) if dot else None}


def cases(shapes: Sequence[Shape], rows: Sequence[int], threads: Sequence[int]) -> Iterator[tuple[Work, list[int]]]:
    """What to load, and for how many rows."""
    for shape in shapes:
        for count in threads:
            few = [m for m in rows if m <= FEW]
            if few and leaves_caches(shape):
                yield Work(shape, True, count, max(rows)), few
            yield Work(shape, False, count, max(rows)), list(rows)


def split_list(text: str) -> list[str]:
    """Items between commas that do not stand within < >."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items if item.strip()]


def chosen_encodings(items: Sequence[str]) -> list[str]:
    """An item with a bracket or attributes is an encoding; another is the start of usual ones' names."""
    known = nomul_artifact.ENCODINGS
    found: list[str] = []
    for item in items:
        whole = item in known or set("<= ") & set(item)
        found += [item] if whole else [name for name in known if name.startswith(item)]
    return list(dict.fromkeys(found)) if items else list(known)


def arguments_of(command: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help=f"OUTPUTSxINPUTS, by commas (default {SHAPES})")
    parser.add_argument("--m", default=ROWS, help=f"numbers of rows (default {ROWS})")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--encodings", default="", help='ours: starts of names, or "ENCODING [act_levels=42 act=f32]"')
    parser.add_argument("--systems", default="", help="parts of names, as nomul,2 bits (default: all)")
    parser.add_argument("--level", default="", help="level to compile for, as v3 (default: this machine's best)")
    parser.add_argument("--huge-pages", action="store_true", help="load our artifacts with huge_pages=True")
    parser.add_argument("--weights", choices=["memory", "cache"], help="only where weights are there (default: both)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each system and row (default 1)")
    quick = " ".join(f"--{key} '{value}'" for key, value in QUICK.items())
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--add", action="store_true", help="keep the rows that FILE has, but those measured again")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a roofline")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/benchmarks.md")
    if "--quick" in (sys.argv[1:] if command is None else command):
        parser.set_defaults(**QUICK)
    return parser.parse_args(command)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows, and the limits before and after each few of them."""
    threads = [int(text) for text in split_list(arguments.threads)]
    shapes = [Shape(*map(int, text.split("x"))) for text in split_list(arguments.shapes)]
    rows = [int(text) for text in split_list(arguments.m)]
    encodings = chosen_encodings(split_list(arguments.encodings))
    target = next(target for target in find_target("host") if arguments.level in ("", target.level))
    found = systems(target.name, encodings, arguments.huge_pages, split_list(arguments.systems))
    measured: list[tuple[limits.Limits, list[Row], limits.Limits]] = []
    notes: dict[str, str] = {}
    for work, counts in cases(shapes, rows, threads):
        if arguments.weights and (arguments.weights == "memory") != work.in_memory:
            continue
        for part in run_case(work, found, counts, arguments.seconds, notes):
            measured.append(part)
            for row in part[1]:
                print(linear_table.line(row), file=sys.stderr, flush=True)
        gc.collect()
    return {
        "machine": platform.processor() or platform.machine(),
        "level": target.level,
        "limits": [asdict(item) for before, _, after in measured for item in (before, after)],
        "skipped": notes,
        "rows": [row for _, part, _ in measured for row in part],
    }


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Rows and limits of both, in order; of rows of the same layer and system the new ones."""
    fresh = {_key(row) for row in new["rows"]}
    rows = [row for row in old["rows"] if _key(row) not in fresh] + new["rows"]
    rows.sort(key=lambda row: (-row["n"] * row["k"], -row["n"], row["threads"], row["m"], row["weights"] == "cache"))
    skipped = old["skipped"] | new["skipped"]
    return new | {"limits": old["limits"] + new["limits"], "rows": rows, "skipped": skipped}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("system", "encoding", "weights", "m", "n", "k", "threads"))


def main(command: Sequence[str] | None = None) -> int:
    arguments = arguments_of(command)
    result = run(arguments)
    if arguments.add and arguments.json and arguments.json.exists():
        result = joined(json.loads(arguments.json.read_text(encoding="utf-8")), result)
    linear_table.print_result(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        arguments.plot.write_text(linear_plot.roofline(result), encoding="utf-8")
    if arguments.docs:
        linear_table.update_docs(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
