"""Prints the estimate: time of each stage, the sum, and its cost at given prices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from winnow.jobs.plan.price import Price

_SURE_S = 1.0


@dataclass(frozen=True)
class Prices:
    """Prices of a GPU hour, a core hour, a TB (tb) that stays in the store, and a TB that is read (tb_read)."""

    gpu_hour: float = 0.0
    cpu_hour: float = 0.0
    tb: float = 0.0
    tb_read: float = 0.0

    def of(self, gpu_hours: float, cpu_hours: float, left: float, read: float) -> float:
        """The cost of these amounts. Workers with GPUs are paid by GPU hour; their cores cost nothing more."""
        paid = gpu_hours * self.gpu_hour if gpu_hours else cpu_hours * self.cpu_hour
        return paid + left / 1e12 * self.tb + read / 1e12 * self.tb_read


def show_price_table(found: Price, prices: Prices, console: Console) -> None:
    """Print time and cost of each stage, the bytes that it reads and writes, the measured rates and the warnings."""
    sums = totals(found, prices)
    times, sizes = (
        _table("stage", "bottleneck", "time", "GPU h", "CPU h", "cost"),
        _table("stage", "read", "stored", "exchanged", "files"),
    )
    for stage in found.stages:
        cost = prices.of(stage.gpu_hours, stage.cpu_hours, stage.left, stage.read)
        hours = _hours(stage.gpu_hours), _hours(stage.cpu_hours)
        times.add_row(stage.label, stage.bottleneck, _time(stage.seconds), *hours, f"{cost:,.2f}")
        moved = (_bytes(number) for number in (stage.read, stage.left, stage.exchanged))
        sizes.add_row(stage.label, *moved, f"{stage.files:,.0f}")
    hours = _hours(sums["gpu_hours"]), _hours(sums["cpu_hours"])
    times.add_section()
    times.add_row("sum", "", _time(sums["seconds"]), *hours, f"{sums['cost']:,.2f}", style="bold")
    sizes.add_section()
    sizes.add_row("sum", _bytes(sums["read"]), _bytes(sums["left"]), "", f"{sums['files']:,.0f}", style="bold")
    lines = [
        f"pool: {found.pool.shards:,} shards, about {found.pool.samples:,.0f} samples "
        f"({'as given' if found.pool.assumed else 'estimated from their bytes'}), {_bytes(found.pool.bytes)}",
        f"measured here: {found.miniature.rows:,} samples of {len(found.miniature.shards)} shards on {found.here} "
        f"workers; the estimate is for {found.workers} workers of the same speed",
        f"storage: {found.rates.read / 1e6:,.0f} MB/s for one reader (a local file may come from the page cache); "
        f"driver: {1000 * found.rates.alone:.2f} ms for a shard in each pass, {1000 * found.rates.among:.2f} if calls "
        f"take many shards",
    ]
    if found.rates.decode and found.rates.models:
        lines.append(
            f"one worker alone: decodes {found.rates.decode:,.0f} samples/s, embeds {found.rates.models:,.0f} decoded "
            f"samples/s"
        )
    console.print(times)
    console.print(sizes)
    for line in [*lines, *[f"will not fit: {text}" for text in found.warnings]]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(stage.seconds < _SURE_S for stage in found.stages):
        note = "below 1 s most time is the start and end of passes; such a stage may take twice its estimate"
        console.print(note, style="dim")


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("stage", "bottleneck") else "right", no_wrap=True)
    return table


def totals(found: Price, prices: Prices) -> dict[str, float]:
    """Sums over all stages. `exchanged` is not summed, because its files are removed after each stage."""
    sums = {
        name: sum(float(getattr(stage, name)) for stage in found.stages)
        for name in ("seconds", "gpu_hours", "cpu_hours", "read", "left", "files")
    }
    sums["cost"] = sum(prices.of(s.gpu_hours, s.cpu_hours, s.left, s.read) for s in found.stages)
    return sums


def record(found: Price, prices: Prices) -> Mapping[str, object]:
    """The estimate as plain JSON values."""
    return {
        "job": found.job.name,
        "pool": asdict(found.pool),
        "workers": found.workers,
        "measured_workers": found.here,
        "measured_samples": found.miniature.rows,
        "rates": asdict(found.rates),
        "prices": asdict(prices),
        "stages": [{**asdict(s), "cost": prices.of(s.gpu_hours, s.cpu_hours, s.left, s.read)} for s in found.stages],
        "total": totals(found, prices),
        "warnings": list(found.warnings),
    }


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _hours(hours: float) -> str:
    return "" if not hours else (f"{hours:,.1f}" if hours >= 1 else f"{hours:.4f}")


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB" if count else ""
