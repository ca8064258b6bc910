"""Each fault of the table: injected from outside while a job runs, until it was injected often enough."""

import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import exchange_driver
from tests.chaos.exchange_loss import SPAN
from tests.chaos.pools import Chaos, Left, left
from tests.chaos.processes import ROOT, RUN_S, Driver, driving, is_worker, started
from tests.faults import FaultyProxy
from winnow.pipeline import storage
from winnow.pipeline.errors import WinnowError

_STAGES = (
    "pool",
    "samples",
    "distinct",
    "rules",
    "clusters",
    "duplicates",
    "similarity",
    "density",
    "manifest",
    "shards",
)

_KILLED_AFTER = 6  # calls of the step


@dataclass
class Row:
    """A line of the table. Injected: times. Runs: started, or resumed, till the end. Redone: files committed again."""

    fault: str
    wanted: int
    injected: int = 0
    runs: int = 0
    finished: int = 0
    identical: int = 0
    lost: int = 0
    redone: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Injected often enough, every run finished, every result the same, nothing lost."""
        return self.injected >= self.wanted and self.runs == self.finished == self.identical and not self.lost

    def judge(self, chaos: Chaos, store: str, expected: Left, code: int | None) -> None:
        """Count a run that has ended."""
        self.runs += 1
        self.finished += code == 0
        if code != 0:
            self.notes.append(f"exit code {code} in {store}")
            return
        found = left(chaos, store)
        self.identical += found.digests == expected.digests
        self.lost += chaos.samples - found.accounted


@contextmanager
def watched(row: Row, store: Path) -> Iterator[None]:
    """While the block runs, files of the store that are committed a second time are counted."""
    seen: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for path in store.glob("*-*/[0-9]*.*"):
                with contextlib.suppress(FileNotFoundError):
                    inode = path.stat().st_ino
                    row.redone += seen.setdefault(str(path), inode) != inode
                    seen[str(path)] = inode

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def worker_kills(row: Row, chaos: Chaos, folder: Path, expected: Left, rng: random.Random, pause_s: float) -> None:
    """SIGKILL to a worker at random times, in as many runs as it takes."""
    _disturbed(row, chaos, folder, expected, lambda pid: os.kill(pid, signal.SIGKILL), rng, pause_s)


def memory_limits(row: Row, chaos: Chaos, folder: Path, expected: Left, rng: random.Random, pause_s: float) -> None:
    """A worker may use no more address space than it has: whatever it asks for next is refused."""

    def starve(pid: int) -> None:
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))

    _disturbed(row, chaos, folder, expected, starve, rng, pause_s)


def _disturbed(
    row: Row,
    chaos: Chaos,
    folder: Path,
    expected: Left,
    harm: Callable[[int], None],
    rng: random.Random,
    pause_s: float,
) -> None:
    """Run after run on Ray, a worker harmed every `pause_s` or so, until `row.wanted` of them have ended of it."""
    for number in range(20):
        store = folder / f"{row.fault.replace(' ', '-')}-{number}"
        with watched(row, store), driving(chaos.file(folder, str(store))) as driver:
            due, harmed = time.monotonic(), set[int]()
            while driver.running:
                time.sleep(0.02)
                ended = {pid for pid in harmed if not is_worker(pid)}
                row.injected += len(ended)
                harmed -= ended
                if time.monotonic() < due or row.injected >= row.wanted:
                    continue
                if workers := set(driver.workers()) - harmed:
                    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                        pid = rng.choice(sorted(workers))
                        harm(pid)
                        harmed.add(pid)
                    due = time.monotonic() + pause_s * rng.uniform(0.5, 1.5)
        row.judge(chaos, str(store), expected, driver.code)
        shutil.rmtree(store, ignore_errors=True)
        if row.injected >= row.wanted:
            return


def driver_kills(row: Row, chaos: Chaos, folder: Path, expected: Left, rng: random.Random) -> None:
    """SIGKILL to the driver once in each stage, the same command again after each; in as many passes as it takes."""
    hit: Counter[str] = Counter()
    inside = 0
    for number in range(5):
        store = folder / f"driver-{number}"
        job = chaos.file(folder, str(store))
        with watched(row, store):
            for stage in _STAGES:
                enough = row.injected >= row.wanted and hit[stage] > 0
                if enough or list(store.glob(f"{stage}-*/_done.json")):
                    continue
                with driving(job) as driver:
                    if _killed(driver, store, stage, rng):
                        row.injected += 1
                        hit[stage] += 1
                        inside += not list(store.glob(f"{stage}-*/_done.json"))
            with driving(job) as driver:
                code = driver.wait()
        row.judge(chaos, str(store), expected, code)
        shutil.rmtree(store, ignore_errors=True)
        if row.injected >= row.wanted and len(hit) == len(_STAGES):
            break
    row.notes.append(", ".join(f"{stage} {hit[stage]}" for stage in _STAGES) + f"; {inside} before the stage was done")


def _killed(driver: Driver, store: Path, stage: str, rng: random.Random) -> bool:
    """Kill it a moment after the stage's folder has come, in the stage or at its end; False where it ended before."""
    while driver.running:
        if list(store.glob(f"{stage}-*")):
            time.sleep(rng.uniform(0, 0.05))
            driver.kill()
            return True
        time.sleep(0.002)
    return False


def node_losses(row: Row, chaos: Chaos, folder: Path, expected: Left, rng: random.Random) -> None:
    """A node of a Ray cluster on loopback is killed when a stage has just begun, and another one joins."""
    from ray.cluster_utils import Cluster  # only here: what it imports reads the environment that the command sets

    node = {"object_store_memory": 100 << 20, "include_dashboard": False}
    stages = itertools.cycle(("samples", "duplicates", "density", "shards"))
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1, **node) for _ in range(2)]
        for number in range(10):
            store, stage = folder / f"nodes-{number}", next(stages)
            job = chaos.file(folder, str(store))
            with watched(row, store), driving(job, "--address", cluster.address) as driver:
                while driver.running:
                    time.sleep(0.01)
                    if row.injected < row.wanted and list(store.glob(f"{stage}-*")):
                        time.sleep(rng.uniform(0, 0.5))
                        cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
                        row.injected += 1
                        row.notes.append(stage)
                        nodes.append(cluster.add_node(num_cpus=1, **node))
                        stage = next(stages)
            row.judge(chaos, str(store), expected, driver.code)
            shutil.rmtree(store, ignore_errors=True)
            if row.injected >= row.wanted:
                return
    finally:
        cluster.shutdown()


def exchange_losses(row: Row, folder: Path, step: str) -> None:
    """A node is killed in the middle of a step of an exchange whose pieces are one item each, again and again.

    Lost pieces are those under way on the node; Redone may be twice as many, or something else was thrown away.
    """
    for number in range(row.wanted):
        command = [sys.executable, "-m", "tests.chaos.exchange_loss", str(folder / f"exchange-{step}-{number}"), step]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False)
        row.runs += 1
        row.finished += run.returncode == 0
        if run.returncode:
            row.notes.append(run.stderr[-500:])
            continue
        found = json.JSONDecoder().raw_decode(run.stdout, run.stdout.index("{"))[0]  # Ray may write on the same line
        again = sum(count for call, count in found["again"].items() if call.startswith(step))
        row.injected += 1
        row.identical += found["same"] and again <= 2 * (SPAN if step == "settle" else 1)
        row.redone += again


def exchange_driver_kills(row: Row, folder: Path, step: str) -> None:
    """SIGKILL to the driver in the middle of a step of an exchange, then the same command again.

    Redone may be what each worker was at: a piece, which is one item or part, or in the last step a span of items.
    """
    for number in range(row.wanted):
        place = folder / f"exchange-driver-{step}-{number}"
        place.mkdir()
        command, log = ("tests.chaos.exchange_driver", str(place)), place / "driver.log"
        with started(*command, log=log) as driver:
            while driver.running and len(list(place.glob(f"calls/{step}*"))) < _KILLED_AFTER:
                time.sleep(0.002)
            driver.kill()
        # its workers may have come to the end of what they were at
        begun = len(list(place.glob(f"calls/{step}*")))
        row.injected += begun < (exchange_driver.PARTS if step == "decide" else exchange_driver.ITEMS)
        row.notes.append(f"{begun} begun before")
        with started(*command, log=log) as driver:
            code = driver.wait()
        row.runs += 1
        row.finished += code == 0
        if code != 0:
            row.notes.append(f"exit code {code}; see {log}")
            continue
        said = log.read_text()
        found = json.JSONDecoder().raw_decode(said, said.rindex('{"same"'))[0]
        again = sum(count for call, count in found["again"].items() if call.startswith(step))
        others = sum(found["again"].values()) - again
        row.identical += found["same"] and not others and again <= exchange_driver.WORKERS * _most_again(step)
        row.redone += again + others


def _most_again(step: str) -> int:
    return exchange_driver.SPAN if step == "settle" else 1


def answer_losses(row: Row, chaos: Chaos, folder: Path, expected: Left, rng: random.Random) -> None:
    """A node is killed while answers of 300 kB lie on it; the job's own are small, so a task stands in for it."""
    for number in range(row.wanted):
        words = [str(folder / f"answers-{number}"), "answers"]
        command = [sys.executable, "-m", "tests.pipeline.executors.nodes", *words]
        played = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
        row.runs += 1
        if played.returncode:
            row.notes.append(f"exit code {played.returncode}")
            continue
        found = json.loads(played.stdout.splitlines()[-1])
        row.injected += 1
        row.finished += 1
        row.identical += not found["wrong"]
        row.lost += len(found["done"]) - len(found["found"])
        row.redone += sum(found["done"])


def storage_faults(
    rows: dict[str, Row], chaos: Chaos, folder: Path, bucket: str, expected: Left, proxy: FaultyProxy
) -> None:
    """Pool and store on S3, a share of the requests failing, each kind in turn, in as many runs as it takes."""
    client = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 1, "connect_timeout": 1}}
    environment = {**os.environ, "FSSPEC_S3": json.dumps(client)}
    for number in range(20):
        store = storage.join(bucket, f"store-{number}")
        uploads = Counter(proxy.uploads)
        with driving(chaos.file(folder, store), "--executor", "local", environment=environment) as driver:
            code = driver.wait()
        # an upload that was done, but whose answer was lost, is the only one that is done again
        rows["lost"].redone += sum(times - 1 for times in (proxy.uploads - uploads).values())
        for kind, row in rows.items():
            row.injected = proxy.injected[kind]
            try:
                row.judge(chaos, store, expected, code)
            except WinnowError as error:
                row.notes.append(str(error))
        if all(row.injected >= row.wanted for row in rows.values()):
            return
