"""Speed and quality of `usersim prep`: throughput, memory, scaling, and recall of duplicates and personal data.

    python benchmarks/prep.py [--quick] [--sizes 10000,100000,1000000] [--scratch DIR] --json-out FILE

Rates are per second of CPU time, independent of other work on the machine. `full_…` is a whole run on full-length
chats in one process, from JSON Lines to splits on disk: every stage, measured style, MinHash. `clean_…` ends at exact
and template duplicates: reading, role repair, bounds, artefacts, language. The curve over sizes is of whole runs on
chats cut to their first turns, in wall time too. Every corpus is made of reworded real chats (benchmarks/_corpus.py).
`speedup_vs_datasets_map` compares with `datasets.Dataset.map`, which calls the same stages chat by chat.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._corpus import real_chats, write_copies
from benchmarks._planted import pii_recall_report
from benchmarks._planted_duplicates import measure
from data_prep.cleaning.clean_batch import ChatBatch, clean, stages_of, to_conversation
from data_prep.cleaning.stages import Rejected
from data_prep.dedup.duplicates import TEMPLATE_COUNT, judge
from data_prep.dedup.signatures import Signatures, sign
from data_prep.pipeline.counts import versions
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings
from data_prep.sources import open_source
from usersim.cli import console, emit_json

RUN = """
import json, sys, time
from pathlib import Path
from data_prep.pipeline.first_pass import prepare
from data_prep.settings import PrepSettings
settings = PrepSettings.model_validate_json(sys.argv[1])
started, cpu = time.monotonic(), time.process_time()
sheet = prepare(settings, text=False)
# Not ru_maxrss: a child inherits that of its parent.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({
    "seconds": time.monotonic() - started,
    "cpu_s": time.process_time() - cpu,
    "peak_memory_mib": int(peak.split()[1]) / 1024,
    "steps": sheet["steps"],
}))
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="5,000 full-length chats, a curve up to 20,000")
    parser.add_argument(
        "--sizes", default="10000,100000,1000000", help="chats of the curve (default: 10000,100000,1000000)"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for the corpora, 3 GB (default: a temporary one)"
    )
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    sizes = [2000, 20_000] if args.quick else [int(size) for size in args.sizes.split(",")]
    chats = real_chats()
    results: dict[str, Any] = measure(chats, seed=0) | pii_recall_report(seed=0) | {"versions": versions()}
    results |= against_map(chats[: 300 if args.quick else 1000])
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        results |= rates(scratch, chats, 2500 if args.quick else 10_000)
        for count in range(2, len(sizes) + 1):
            results |= curve(scratch, chats, sizes[:count], results.get("curve", []))
            # The last size takes most of the time; earlier results are saved before it.
            emit_json(results, stdout=False, path=args.json_out)
    emit_json(results, stdout=not args.json_out, path=None)


def rates(scratch: Path, chats: list[RawChat], count: int) -> dict[str, Any]:
    corpus = scratch / "full.jsonl"
    write_copies(corpus, chats, count, short=False)
    cheap, full = clean_only(corpus), run(corpus)
    corpus.unlink()
    return {
        "clean_conv_per_s_per_core": count / cheap,
        "full_conv_per_s_per_core": count / full["cpu_s"],
        "full_length": {
            "conversations": count,
            "mean_chars": sum(len(turn.text) for chat in chats for turn in chat.turns) / len(chats),
            "past_exact_duplicates": share_past_duplicates(full, count),
            "full_seconds": full["seconds"],
            "full_peak_memory_mib": full["peak_memory_mib"],
        },
    }


def clean_only(corpus: Path) -> float:
    """Returns the CPU seconds from the file to the verdict on exact and template duplicates."""
    settings = PrepSettings.model_validate(
        {"sources": [{"spec": f"messages:{corpus}"}], "out": "-", "scrub": False}
    )
    stages = stages_of(settings)
    for stage in stages.values():
        stage(real_chats(limit=8))
    started, signatures = time.process_time(), []
    chats = open_source(settings.sources[0].spec).chats
    while batch := list(islice(chats, settings.batch)):
        for stage in stages.values():
            batch = [chat for chat in stage(batch).chats if isinstance(chat, RawChat)]
        signatures.append(sign(batch, near=False))
    judge([lambda: Signatures.concat(signatures)], template_count=TEMPLATE_COUNT, near_duplicate=None)
    return time.process_time() - started


def curve(
    scratch: Path, chats: list[RawChat], sizes: list[int], points: list[dict[str, Any]]
) -> dict[str, Any]:
    """Extends the curve `points` by the missing sizes."""
    for size in sizes[len(points) :]:
        corpus = scratch / "short.jsonl"
        write_copies(corpus, chats, size, short=True)
        result = run(corpus)
        corpus.unlink()
        points = [
            *points,
            {
                "conversations": size,
                "seconds": result["seconds"],
                "cpu_s": result["cpu_s"],
                "conv_per_s_per_core": size / result["cpu_s"],
                "peak_memory_mib": result["peak_memory_mib"],
                "past_exact_duplicates": share_past_duplicates(result, size),
            },
        ]
        console.print(points[-1])
    previous, largest = points[-2:]
    ratio = {"time_ratio_of_last_two": largest["cpu_s"] / previous["cpu_s"]}
    if (previous["conversations"], largest["conversations"]) == (100_000, 1_000_000):
        ratio["time_ratio_1m_to_100k"] = largest["cpu_s"] / previous["cpu_s"]
    return {"curve": points, "peak_memory_mib": largest["peak_memory_mib"], **ratio}


def share_past_duplicates(result: dict[str, Any], read: int) -> float:
    """Returns the share of chats that reached personal data and MinHash and are no exact copy."""
    steps = {step["step"]: step for step in result["steps"]}
    exact = steps["duplicates"]["rejected"].get("same user turns as another", 0)
    return float((steps["duplicates"]["in"] - exact) / read)


def run(corpus: Path, **settings: Any) -> dict[str, Any]:
    """Runs `prepare` in a separate process on one core."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as out:
        settings_json = PrepSettings.model_validate(
            {"sources": [{"spec": f"messages:{corpus}"}], "out": out, **settings}
        ).model_dump_json(exclude_unset=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run(
            [sys.executable, "-c", RUN, settings_json], stdout=subprocess.PIPE, check=True, env=environment
        )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def against_map(chats: list[RawChat]) -> dict[str, Any]:
    """Compares with `datasets.map`: best of two runs each, alternating. Both produce lines and signatures."""
    settings = PrepSettings.model_validate({"sources": [{"spec": "-"}], "out": "-"})
    stages_of(settings)
    ours, theirs = [], []
    for _ in range(2):
        started = time.process_time()
        for start in range(0, len(chats), settings.batch):
            clean(settings, ChatBatch(0, chats[start : start + settings.batch]))
        ours.append(time.process_time() - started)
        theirs.append(mapped_seconds(settings, chats))
    return {
        "speedup_vs_datasets_map": min(theirs) / min(ours),
        "datasets_map": {"conversations": len(chats), "ours_s": min(ours), "map_s": min(theirs)},
    }


def mapped_seconds(settings: PrepSettings, chats: list[RawChat]) -> float:
    """Returns the CPU seconds of the same functions called by `datasets.map`, one row at a time."""
    from datasets import Dataset, disable_caching, disable_progress_bars  # type: ignore[import-untyped]

    disable_caching()
    disable_progress_bars()
    rows = Dataset.from_list([{"chat": chat.model_dump_json()} for chat in chats])

    def clean_row(row: dict[str, str]) -> dict[str, Any]:
        chat = RawChat.model_validate_json(row["chat"])
        for stage in stages_of(settings).values():
            (result,) = stage([chat]).chats
            if isinstance(result, Rejected):
                return {"line": None, "minhash": None}
            chat = result
        return {
            "line": to_conversation(chat).model_dump_json(exclude_defaults=True),
            "minhash": sign([chat]).table["minhash"][0],
        }

    started = time.process_time()
    rows.map(clean_row, remove_columns=["chat"])
    return time.process_time() - started


if __name__ == "__main__":
    main()
