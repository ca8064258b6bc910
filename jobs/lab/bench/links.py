"""Benchmark: filtering 2,000,000 links of LAION's columns, beside the same in polars and duckdb.

python -m winnow.jobs.lab.bench.links [--folder out/bench-links] [--links 2000000].
Rules, a list of links to take down, and at most so many links of a domain. Each program runs in a process
of its own, one after another; all must keep as many. Absolute times depend on the machine; read the ratios.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.job_file.job import parse
from winnow.jobs.lab.bench.meter import Meter, peak_bytes
from winnow.jobs.run import run_job
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.machine import cores

_SHARDS = 20
_DOMAINS = 20_000
_LISTED = 0.01  # share of the links that the list names
_MOST = 1000
_MIN_WORDS, _MIN_SIDE, _MAX_UNSAFE = 3, 200, 0.5
_WORDS = np.array(["red", "old", "house", "photo", "of", "a", "the", "river", "wedding", "dress", "size", "sale"])


def make_links(folder: Path, links: int) -> None:
    """Shards of LAION's columns, and a list of links to take down. Domains are as uneven as on the web (Zipf)."""
    (folder / "pool").mkdir(parents=True)
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(1, _DOMAINS + 1)
    with open(folder / "takedown.txt", "w") as listed:
        for shard in range(_SHARDS):
            ids = np.arange(shard * links // _SHARDS, (shard + 1) * links // _SHARDS)
            n = len(ids)
            domain = rng.choice(_DOMAINS, n, p=share / share.sum())
            urls = [
                f"https://img{i % 9}.site{d}.com/a/{i}.jpg" for i, d in zip(ids.tolist(), domain.tolist(), strict=True)
            ]
            words = _WORDS[rng.integers(0, len(_WORDS), (n, 12))]
            lengths = rng.integers(1, 13, n)
            columns: dict[str, Any] = {
                "SAMPLE_ID": ids,
                "URL": urls,
                "TEXT": [" ".join(row[:k]) for row, k in zip(words.tolist(), lengths.tolist(), strict=True)],
                "WIDTH": rng.integers(100, 1200, n).astype(np.int32),
                "HEIGHT": rng.integers(100, 1200, n).astype(np.int32),
                "LANGUAGE": np.array(["en", "de", "nolang"])[rng.choice(3, n, p=[0.6, 0.3, 0.1])],
                "punsafe": rng.random(n).astype(np.float32),
            }
            pq.write_table(pa.table(columns), folder / f"pool/{shard:05d}.parquet")
            listed.writelines(f"{urls[at]}\n" for at in np.flatnonzero(rng.random(n) < _LISTED))


def _winnow(folder: Path, executor: str) -> dict[str, Any]:
    limits = {"language": {"in": ["en"]}, "punsafe": {"max": _MAX_UNSAFE}}
    job = parse(
        {
            "name": "links",
            "store": str(folder / f"store-{executor}"),
            "pool": {
                "shards": f"{folder}/pool/*.parquet",
                "format": "links",
                "fields": {"url": "URL", "language": "LANGUAGE", "punsafe": "punsafe"},
            },
            "policy": [
                {"rules": {"min_words": _MIN_WORDS, "min_side": _MIN_SIDE, "fields": limits}},
                {"subset": {"urls": str(folder / "takedown.txt"), "keep": False}},
                {"cap": {"by": "url", "domain": True, "most": _MOST}},
            ],
        }
    )
    runner = open_executor(executor, None, None)
    meter = Meter()
    try:
        started = time.perf_counter()
        result = run_job(job, runner, lambda line: None, (meter,))
        seconds = time.perf_counter() - started
    finally:
        meter.close()
        runner.close()
    laps = meter.laps.values()
    steps = {label: round(step.seconds, 2) for label, step in result.steps}
    peaks = {"driver": max([peak_bytes(), *(lap.driver for lap in laps)]), "worker": max(lap.own for lap in laps)}
    cpu = sum(lap.cpu for lap in laps)  # of the workers too
    return {"kept": result.counts["kept"], "seconds": seconds, "cpu": cpu, "steps": steps, **peaks}


def _polars(folder: Path) -> dict[str, Any]:
    import polars as pl

    started, used = time.perf_counter(), time.process_time()
    url = pl.col("URL")
    listed = pl.scan_csv(folder / "takedown.txt", has_header=False, new_columns=["URL"])
    kept = (
        pl.scan_parquet(folder / "pool/*.parquet")
        .filter(
            pl.col("TEXT").str.split(" ").list.len() >= _MIN_WORDS,
            pl.min_horizontal("WIDTH", "HEIGHT") >= _MIN_SIDE,
            pl.col("LANGUAGE") == "en",
            pl.col("punsafe") <= _MAX_UNSAFE,
        )
        .join(listed, on="URL", how="anti")
        .with_columns(domain=url.str.extract(r"^[a-z]+://[^/]*?([^./]+\.[^./]+)/"), rank=url.hash(0))
        .filter(pl.col("rank").rank("ordinal").over("domain") <= _MOST)
        .collect()
    )
    kept.write_parquet(folder / "polars.parquet")
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"kept": kept.height, "seconds": seconds, "cpu": cpu}


def _duckdb(folder: Path) -> dict[str, Any]:
    import duckdb

    started, used = time.perf_counter(), time.process_time()
    duckdb.sql(rf"""
        COPY (
            SELECT *, regexp_extract(URL, '^[a-z]+://[^/]*?([^./]+\.[^./]+)/', 1) AS domain
            FROM '{folder}/pool/*.parquet'
            WHERE len(string_split(TEXT, ' ')) >= {_MIN_WORDS} AND least(WIDTH, HEIGHT) >= {_MIN_SIDE}
                AND LANGUAGE = 'en' AND punsafe <= {_MAX_UNSAFE}
                AND URL NOT IN (SELECT column0 FROM read_csv('{folder}/takedown.txt', header=false, delim='\t'))
            QUALIFY row_number() OVER (PARTITION BY domain ORDER BY hash(URL)) <= {_MOST}
        ) TO '{folder}/duckdb.parquet'
    """)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"kept": duckdb.read_parquet(f"{folder}/duckdb.parquet").shape[0], "seconds": seconds, "cpu": cpu}


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "polars": _polars,
    "duckdb": _duckdb,
    "winnow, threads": lambda folder: _winnow(folder, "local"),
    "winnow, Ray": lambda folder: _winnow(folder, "ray"),
}
"""Each program by its name: what it does in a folder with a pool."""


def _apart(way: str, folder: Path) -> dict[str, Any]:
    """What one way says in a process of its own: seconds and CPU seconds without imports, peak bytes, kept links."""
    words = [sys.executable, "-m", "winnow.jobs.lab.bench.links", "--folder", str(folder), "--only", way]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, 2 GB for 2,000,000 links")] = Path("out/bench-links"),
    links: Annotated[int, typer.Option(min=_SHARDS, help="links of the pool")] = 2_000_000,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
    keep: Annotated[bool, typer.Option(help="keep the pool and the stores")] = False,
) -> None:
    """Print time, peak memory and rate of each program, and the ratios."""
    folder = folder.absolute()
    if only is not None:
        said = WAYS[only](folder)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"driver": peak, **said}))
        return
    shutil.rmtree(folder, ignore_errors=True)
    make_links(folder, links)
    table = Table("program", "s", "CPU s", "links/s and core", "peak MB", "kept", "ratio of seconds; of CPU seconds")
    table.title = f"{links:,} links, {cores()} cores"
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        said = found[way] = _apart(way, folder)
        memory = f"{said['driver'] / 1e6:,.0f}"
        memory += f", a worker {said['worker'] / 1e6:,.0f}" if said.get("worker") else ""
        ratios = [
            f"{said['seconds'] / peer['seconds']:.1f}; {said['cpu'] / peer['cpu']:.1f} of {name}"
            for name, peer in found.items()
            if "steps" in said and "steps" not in peer
        ]
        rate = links / said["seconds"] / cores()
        times = f"{said['seconds']:.1f}", f"{said['cpu']:.1f}"
        table.add_row(way, *times, f"{rate:,.0f}", memory, f"{said['kept']:,}", "\n".join(ratios))
        if "steps" in said:
            table.caption = "; ".join(f"{label} {seconds} s" for label, seconds in said["steps"].items())
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if len({said["kept"] for said in found.values()}) > 1:
        raise SystemExit("all programs must keep as many links, but they do not")
    if not keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
