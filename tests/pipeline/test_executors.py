"""One contract for both executors: every item once, retried, accounted for, and worker deaths survived."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import CPUS
from winnow.pipeline.errors import FailedShards, FullError, JobError, ModelError, PoolError, ShardError, StorageError
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.executors.contract import Needs, Stateless, item_name
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.machine import cores

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Named:
    """An item with a url, such as a shard."""

    url: str


@dataclass(frozen=True)
class Square:
    """Squares a number after whatever shall befall it; each attempt and each opening is a byte in a file."""

    folder: str
    bad: tuple[int, ...] = ()
    bad_until: int = 0  # attempts on a bad item that fail; 0: all of them
    kills: tuple[int, ...] = ()
    kills_once: bool = False
    buggy: int = -1
    slow: float = 0
    error: Exception | None = None  # what a bad item raises, in place of a ShardError

    def open(self) -> Callable[[int], int]:
        mark(self.folder, f"open-{os.getpid()}")
        return self.square

    def square(self, item: int) -> int:
        tried = mark(self.folder, f"item-{item}")
        time.sleep(self.slow)
        if item in self.kills and not (self.kills_once and tried > 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.bad and (not self.bad_until or tried <= self.bad_until):
            raise self.error or ShardError(f"shard {item} is bad")
        if item == self.buggy:
            return "text" * "text"  # type: ignore[operator]  # the bug
        return item * item


@dataclass(frozen=True)
class Full:
    """Finds no room for what it makes."""

    folder: str

    def __call__(self, item: int) -> int:
        mark(self.folder, f"item-{item}")
        time.sleep(0.02)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise StorageError("cannot write, no space") from error


def mark(folder: str, name: str) -> int:
    """Add a byte to a file; how many there are now."""
    path = Path(folder, name)
    with open(path, "ab") as file:
        file.write(b"x")
    return path.stat().st_size


def marks(folder: Path, kind: str) -> dict[str, int]:
    return {path.name.split("-")[1]: path.stat().st_size for path in folder.glob(f"{kind}-*")}


def attempts(folder: Path) -> dict[int, int]:
    return {int(item): count for item, count in marks(folder, "item").items()}


def collected(results, failing=FailedShards):
    """All results that come before the error, and the error."""
    found = []
    try:
        for pair in results:
            found.append(pair)
    except failing as error:
        return found, error
    pytest.fail(f"{failing.__name__} must be raised, got {found}")


def test_every_item_is_done_once_and_its_result_comes_with_its_index(executor, tmp_path):
    items = [3, 1, 4, 1, 5, 9, 2, 6, *range(10, 40)]
    results = list(executor.map(Square(str(tmp_path)), items, "squares", Needs()))
    assert sorted(results) == [(i, item * item) for i, item in enumerate(items)]
    assert attempts(tmp_path) == {item: items.count(item) for item in items}


def test_nothing_to_do_is_done(executor, tmp_path):
    assert list(executor.map(Square(str(tmp_path)), [], "squares", Needs())) == []
    assert marks(tmp_path, "open") == {}


def test_a_worker_opens_a_task_once(executor, tmp_path):
    for task in ("one", "two"):
        folder = tmp_path / task
        folder.mkdir()
        list(executor.map(Square(str(folder), slow=0.01), range(12), task, Needs()))
        opened = marks(folder, "open")
        if isinstance(executor, LocalExecutor):
            assert 1 <= sum(opened.values()) <= executor.workers
        else:
            assert 1 <= len(opened) <= executor.workers
            assert set(opened.values()) == {1}


@pytest.mark.parametrize("retries", [0, 2])
def test_a_bad_item_is_retried_then_named_while_the_others_are_done(executor, tmp_path, retries):
    task = Square(str(tmp_path), bad=(3, 7))
    found, error = collected(executor.map(task, range(20), "squares", Needs(retries=retries)))
    assert sorted(found) == [(i, i * i) for i in range(20) if i not in (3, 7)]
    assert error.failures == [("3", "shard 3 is bad"), ("7", "shard 7 is bad")]
    assert "squares: every shard must finish, but 2 of 20 failed" in str(error)
    assert attempts(tmp_path) == {i: 1 + retries * (i in (3, 7)) for i in range(20)}


def test_what_no_other_try_can_mend_is_not_tried_again_while_the_others_are_done(executor, tmp_path):
    task = Square(str(tmp_path), bad=(3, 7), error=PoolError("no such column"))
    found, error = collected(executor.map(task, range(20), "squares", Needs()))
    assert sorted(found) == [(i, i * i) for i in range(20) if i not in (3, 7)]
    assert error.failures == [("3", "no such column"), ("7", "no such column")]
    assert attempts(tmp_path) == dict.fromkeys(range(20), 1)


@pytest.mark.parametrize("spare", [0, 6])
def test_a_pass_of_which_nothing_can_be_done_ends_with_the_first_few(executor, tmp_path, spare):
    task = Square(str(tmp_path), bad=tuple(range(100)), error=PoolError("no such column"), slow=0.01)
    found, error = collected(executor.map(task, range(100), "squares", Needs(spare=spare)))
    assert found == []
    assert str(error).endswith(
        "more: no such column\nThe others were not begun; fix the cause and run the same command again to resume."
    )
    assert max(3, spare + 1) <= len(error.failures) < 40
    assert set(attempts(tmp_path).values()) == {1}
    assert len(attempts(tmp_path)) < 50


def test_what_may_pass_is_tried_again_though_nothing_was_done_before(executor, tmp_path):
    task = Square(str(tmp_path), bad=tuple(range(8)), bad_until=2, error=ConnectionResetError("by peer"))
    assert len(list(executor.map(task, range(8), "squares", Needs()))) == 8
    assert attempts(tmp_path) == dict.fromkeys(range(8), 3)


def test_a_full_storage_ends_the_stage_at_once(executor, tmp_path):
    task = Stateless(Full(str(tmp_path)))
    with pytest.raises(FullError, match="cannot write, no space"):
        list(executor.map(task, range(50), "full", Needs(retries=5, spare=50)))
    assert len(attempts(tmp_path)) < 25
    assert set(attempts(tmp_path).values()) == {1}


def test_an_item_that_is_bad_for_a_while_is_done_in_the_end(executor, tmp_path):
    task = Square(str(tmp_path), bad=(0, 5), bad_until=2)
    assert len(list(executor.map(task, range(6), "squares", Needs(retries=2)))) == 6
    assert attempts(tmp_path) == {0: 3, 1: 1, 2: 1, 3: 1, 4: 1, 5: 3}


def test_a_bug_surfaces_with_its_traceback(executor, tmp_path):
    task = Square(str(tmp_path), buggy=2)
    _, error = collected(executor.map(task, range(4), "squares", Needs()), TypeError)
    from_here = "".join(str(entry.path) for entry in pytest.ExceptionInfo.from_exception(error).traceback)
    assert __file__ in from_here or '"text" * "text"' in str(error)
    assert attempts(tmp_path)[2] == 1


def test_the_executor_works_on_after_a_failure(executor, tmp_path):
    collected(executor.map(Square(str(tmp_path), buggy=0), range(8), "squares", Needs()), TypeError)
    folder = tmp_path / "next"
    folder.mkdir()
    assert len(list(executor.map(Square(str(folder)), range(8), "squares", Needs()))) == 8


def test_a_failed_item_goes_by_its_url():
    assert item_name(Named("s3://pool/0.tar")) == "s3://pool/0.tar"
    assert item_name(7) == "7"


def test_a_killed_worker_costs_its_item_one_more_attempt(ray_executor, tmp_path):
    task = Square(str(tmp_path), kills=(4,), kills_once=True)
    results = list(ray_executor.map(task, range(12), "squares", Needs(retries=1)))
    assert sorted(results) == [(i, i * i) for i in range(12)]
    assert attempts(tmp_path)[4] == 2


@pytest.mark.parametrize(("retries", "poison"), [(0, (0, 1)), (1, (6,))])
def test_items_that_always_kill_their_worker_fail_alone(ray_executor, tmp_path, retries, poison):
    task = Square(str(tmp_path), kills=poison)
    found, error = collected(ray_executor.map(task, range(14), "squares", Needs(retries=retries)))
    assert sorted(found) == [(i, i * i) for i in range(14) if i not in poison]
    assert [name for name, _ in error.failures] == [str(item) for item in poison]
    assert all("its worker died" in message for _, message in error.failures)
    # once more where another call waited beside it, for then nobody can tell which of the two it was
    assert all(attempts(tmp_path)[item] in (1 + retries, 2 + retries) for item in poison)


@dataclass(frozen=True)
class Quick:
    """Squares a number at once; each attempt is a byte in a file, and what shall befall an item is by its number."""

    folder: str
    bad: tuple[int, ...] = ()
    kills: tuple[int, ...] = ()
    hungry: tuple[int, ...] = ()

    def open(self) -> Callable[[int], int]:
        mark(self.folder, f"open-{os.getpid()}")
        return self.square

    def square(self, item: int) -> int:
        tried = mark(self.folder, f"item-{item}")
        if item in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.hungry and tried == 1:
            raise MemoryError("malloc failed")
        if item in self.bad:
            raise ShardError(f"shard {item} is bad")
        return item * item


@dataclass(frozen=True)
class Unmapped:
    """Fails once as a library does that finds no room in memory."""

    folder: str

    def __call__(self, item: int) -> int:
        if mark(self.folder, f"item-{item}") == 1:
            try:
                raise OSError("libfast.so.1: failed to map segment from shared object")
            except OSError as error:
                raise RuntimeError("cannot load libfast; is the wheel whole?") from error
        return os.getpid()


def test_a_library_that_finds_no_memory_is_loaded_by_a_fresh_worker(ray_executor, tmp_path):
    assert len(dict(ray_executor.map(Stateless(Unmapped(str(tmp_path))), [7], "unmapped", Needs()))) == 1
    assert attempts(tmp_path)[7] >= 2


@dataclass(frozen=True)
class Meets:
    """Of one item: how many others its worker has had under way beside it at most, itself among them."""

    folder: str
    kills: int = -1
    hungry: int = -1

    def open(self) -> Callable[[int], int]:
        mark(self.folder, f"open-{os.getpid()}")
        time.sleep(0.05)  # time for a second thread to open it too
        return partial(self.meet, [])

    def meet(self, under_way: list[int], item: int) -> int:
        tried = mark(self.folder, f"item-{item}")
        under_way.append(item)
        most, ends = 0, time.monotonic() + 0.4
        while time.monotonic() < ends and most < 2:
            most = max(most, len(under_way))
            time.sleep(0.01)
        under_way.remove(item)
        if item == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.hungry and (tried == 1 or most > 1):
            raise MemoryError("malloc failed")
        return most


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_worker_that_prefetches_has_two_items_under_way_and_opens_once(executor, tmp_path, prefetch):
    found = dict(executor.map(Meets(str(tmp_path)), range(12), "meets", Needs(prefetch=prefetch)))
    assert sorted(found) == list(range(12))
    assert max(found.values()) == (2 if prefetch else 1)
    assert sum(marks(tmp_path, "open").values()) <= executor.workers
    assert set(attempts(tmp_path).values()) == {1}


def test_of_two_items_under_way_only_the_one_that_kills_is_charged(ray_executor, tmp_path):
    needs = Needs(retries=0, prefetch=True)
    found, error = collected(ray_executor.map(Meets(str(tmp_path), kills=3), range(12), "meets", needs))
    assert sorted(dict(found)) == [i for i in range(12) if i != 3]
    assert [name for name, _ in error.failures] == ["3"]


def test_an_item_for_which_two_are_too_many_is_done_alone(ray_executor, tmp_path):
    task = Meets(str(tmp_path), hungry=0)
    found = dict(ray_executor.map(task, range(12), "meets", Needs(retries=1, prefetch=True)))
    assert sorted(found) == list(range(12))
    assert found[0] == 1


@dataclass(frozen=True)
class Starved:
    """Its first two calls of a process come when that may have no more memory, and say what is not at fault."""

    folder: str
    error: type[Exception]

    def __call__(self, item: int) -> int:
        if not list(Path(self.folder).glob("limited-*")):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used, used))
            mark(self.folder, f"limited-{os.getpid()}")
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            raise self.error("partially initialized module 'pandas' has no attribute '_pandas_datetime_CAPI'")
        time.sleep(0.05)
        return item


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("error", [AttributeError, ModelError, ShardError])
def test_whatever_a_process_without_memory_says_a_fresh_one_tries_again(ray_executor, tmp_path, error):
    found = dict(ray_executor.map(Stateless(Starved(str(tmp_path), error)), range(8), "starved", Needs(retries=2)))
    assert found == {i: i for i in range(8)}
    assert sum(marks(tmp_path, "limited").values()) >= 1


def sent_together(monkeypatch) -> list[int]:
    """How many items go with each call from now on."""
    from winnow.pipeline.executors.batching import Waiting

    sizes: list[int] = []
    take = Waiting.take

    def noted(self: Waiting) -> list[int]:
        taken = take(self)
        sizes.append(len(taken))
        return taken

    monkeypatch.setattr(Waiting, "take", noted)
    return sizes


def test_cheap_items_go_together_and_one_that_fails_is_tried_again_without_its_neighbours(
    ray_executor, tmp_path, monkeypatch
):
    sizes = sent_together(monkeypatch)
    task = Quick(str(tmp_path), bad=(0, 200, 399))
    found, error = collected(ray_executor.map(task, range(400), "quick", Needs(retries=1)))
    assert sorted(found) == [(i, i * i) for i in range(400) if i not in (0, 200, 399)]
    assert [name for name, _ in error.failures] == ["0", "200", "399"]
    assert "3 of 400 failed" in str(error)
    assert attempts(tmp_path) == {i: 1 + (i in (0, 200, 399)) for i in range(400)}
    assert dict(ray_executor.failed) == {0: 1, 200: 1, 399: 1}
    assert max(sizes) > 4, sizes


def test_of_items_that_went_together_only_the_one_that_kills_is_charged(ray_executor, tmp_path, monkeypatch):
    sizes = sent_together(monkeypatch)
    task = Quick(str(tmp_path), kills=(200,))
    found, error = collected(ray_executor.map(task, range(400), "quick", Needs(retries=0)))
    assert sorted(found) == [(i, i * i) for i in range(400) if i != 200]
    assert [name for name, _ in error.failures] == ["200"]
    assert dict(ray_executor.failed) == {}
    tried = attempts(tmp_path)
    assert max(tried.values()) == 2
    assert tried[200] <= 2
    assert max(sizes) > 4, sizes


def test_of_items_that_went_together_only_the_one_out_of_memory_is_charged(ray_executor, tmp_path, monkeypatch):
    sizes = sent_together(monkeypatch)
    task = Quick(str(tmp_path), hungry=(200,))
    results = list(ray_executor.map(task, range(400), "quick", Needs(retries=1)))
    assert sorted(results) == [(i, i * i) for i in range(400)]
    assert dict(ray_executor.failed) == {200: 1}
    assert attempts(tmp_path)[200] == 2
    assert max(sizes) > 4, sizes


def test_a_worker_gives_back_what_it_has_no_time_for():
    from winnow.pipeline.executors.ray_worker import Worker

    _, outcomes = Worker().run(1, Stateless(Sleepy()), range(10), 0.05)
    assert outcomes == [(True, 0), (True, 1)]
    seconds, outcomes = Worker().run(1, Stateless(Sleepy()), range(1), 0.0)
    assert outcomes == [(True, 0)], "one in any case"
    assert seconds >= 0.03


class Sleepy:
    """Takes 30 ms an item."""

    def __call__(self, item: int) -> int:
        time.sleep(0.03)
        return item


def test_workers_declare_their_memory_and_no_more_of_them_run_than_it_holds(ray_executor, tmp_path):
    import ray

    from winnow.pipeline.executors.on_ray import RayExecutor

    ray_executor.close()
    needs = Needs(cpus=0.1, memory_gb=0.8 * ray.cluster_resources()["memory"] / 1e9)
    executor = RayExecutor(2)
    try:
        list(executor.map(Square(str(tmp_path), slow=0.1), range(6), "squares", needs))
    finally:
        executor.close()
    assert len(marks(tmp_path, "open")) == 1


def test_actors_that_find_no_room_hold_no_items(ray_executor, tmp_path):
    from winnow.pipeline.executors.on_ray import RayExecutor

    ray_executor.close()  # its actors hold the cores that these need
    crowd = RayExecutor(5)
    try:
        results = list(crowd.map(Square(str(tmp_path)), range(12), "squares", Needs()))
    finally:
        crowd.close()
    assert sorted(results) == [(i, i * i) for i in range(12)]


def test_a_second_executor_takes_the_cores_that_the_first_does_not_use(ray_executor, tmp_path):
    from winnow.pipeline.executors.on_ray import RayExecutor

    for name, executor in (("one", ray_executor), ("two", RayExecutor(CPUS)), ("three", ray_executor)):
        (tmp_path / name).mkdir()
        assert len(list(executor.map(Square(str(tmp_path / name)), range(12), name, Needs()))) == 12


def test_a_second_executor_is_refused_while_a_pass_of_the_first_holds_what_it_needs(
    ray_executor, tmp_path, monkeypatch
):
    from winnow.pipeline.executors import ray_dispatch
    from winnow.pipeline.executors.on_ray import RayExecutor

    monkeypatch.setattr(ray_dispatch, "_QUIET_S", 0.5)
    first = ray_executor.map(Square(str(tmp_path)), range(200), "squares", Needs())
    next(first)
    second = RayExecutor(CPUS)
    try:
        with pytest.raises(
            JobError, match="another executor of this process is in the middle of a pass: each takes 1 co"
        ):
            list(second.map(Square(str(tmp_path)), range(4), "squares", Needs()))
    finally:
        second.close()
    assert len(list(first)) == 199


def test_a_kind_of_executor_that_is_not_there():
    with pytest.raises(JobError, match="must be 'local' or 'ray', got 'spark'"):
        open_executor("spark", None, None)
    with pytest.raises(JobError, match="--address must come with --executor ray, got local"):
        open_executor("local", None, "auto")
    local = open_executor("local", 3, None)
    assert local.workers == 3
    local.close()


def test_ray_starts_with_the_first_work(ray_executor, tmp_path):
    ray_executor.close()  # its actors hold the cores
    executor = open_executor("ray", 1, None)
    assert list(executor.map(Square(str(tmp_path)), [], "squares", Needs())) == []
    executor.close()
    assert "_inner" not in vars(executor)
    assert list(executor.map(Square(str(tmp_path)), [7], "squares", Needs())) == [(0, 49)]
    assert executor.workers == 1
    executor.close()


def test_threads_that_need_a_gpu_share_the_one(tmp_path):
    needs = {"whole": Needs(gpus=1.0), "half": Needs(gpus=0.5), "none": Needs()}
    for name, need in needs.items():
        (tmp_path / name).mkdir()
        list(LocalExecutor(4).map(Square(str(tmp_path / name), slow=0.02), range(12), name, need))
    assert [sum(marks(tmp_path / name, "open").values()) for name in needs] == [1, 2, 4]


_DRIVER = """
import os, signal, sys
from pathlib import Path
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.choose import open_executor
from tests.chaos.processes import descendants, listening
from tests.pipeline.test_executors import Square
executor = open_executor("ray", 1, None)
print(list(executor.map(Square(sys.argv[1]), [7], "squares", Needs())))
found = listening(os.getpid())
print(sorted({command for _, command in found} & {"gcs_server", "raylet"}), {address for address, _ in found})
commands = [Path("/proc", str(pid), "cmdline").read_text() for pid, _ in descendants(os.getpid())]
print([name for name in ("dashboard.py", "monitor.py", "raylet") if any(name in command for command in commands)])
try:
    signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    print("stopped")
second = open_executor("ray", 1, None)
try:
    list(second.map(Square(sys.argv[1]), [7], "squares", Needs(cpus=999)))
except JobError as error:
    print(error)
executor.close()
"""


def test_a_cluster_of_its_own_listens_on_loopback_and_never_grows_and_ends_on_sigterm_as_on_ctrl_c(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", _DRIVER, str(tmp_path)]
    environment["PYTHONPATH"] = str(ROOT)
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    lacking = f"one worker must fit in this machine, but it takes 999 cores, 0 GPUs and 0 GB of memory of {cores()}, "
    *lines, refused = said.splitlines()
    assert lines == ["[(0, 49)]", "['gcs_server', 'raylet'] {'127.0.0.1'}", "['raylet']", "stopped"]
    assert refused.startswith(lacking)


def test_waiting_for_room_in_the_cluster_is_said_once(ray_executor, tmp_path, monkeypatch, capsys):
    import ray

    from winnow.pipeline.executors import ray_dispatch
    from winnow.pipeline.executors.on_ray import RayExecutor
    from winnow.pipeline.executors.ray_worker import Worker

    ray_executor.close()  # its actors hold the cores
    monkeypatch.setattr(ray_dispatch, "_QUIET_S", 0.5)
    hog = ray.remote(Worker).options(num_cpus=CPUS).remote()
    ray.get(hog.greet.remote())
    threading.Timer(2, lambda: ray.kill(hog)).start()
    executor = RayExecutor(1)
    try:
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            assert list(executor.map(Square(str(tmp_path / folder)), [3], "squares", Needs())) == [(0, 9)]
    finally:
        executor.close()
    said = re.sub(r"of its GB of memory [0-9.]+ of [0-9.]+; ", "of its GB of memory; ", capsys.readouterr().err)
    assert said == (
        "winnow: waiting for a worker; each takes 1 cores, 0 GPUs and 0 GB of memory, and "
        f"of the cluster's cores 0 of {CPUS} are free, of its GPUs 0 of 0, of its GB of memory; "
        "another run or executor holds the others until it ends\n"
    )


def test_room_that_a_cluster_can_only_grow_to_have_is_said(ray_cluster):
    from winnow.pipeline.executors.ray_pool import room_in_cluster

    said = room_in_cluster(Needs(cpus=CPUS + 1))
    assert said.startswith(f"each takes {CPUS + 1} cores, 0 GPUs and 0 GB of memory, and of the cluster's cores ")
    assert said.endswith("it begins once the cluster has grown")
    for lacking in (Needs(gpus=99), Needs(memory_gb=99_999)):
        assert room_in_cluster(lacking).endswith("it begins once the cluster has grown")


@dataclass(frozen=True)
class Hungry:
    """Runs out of memory on its first try of an item, as under a limit of the system."""

    folder: str
    slow: float = 0

    def open(self) -> Callable[[int], int]:
        mark(self.folder, f"open-{os.getpid()}")
        return self.square

    def square(self, item: int) -> int:
        if mark(self.folder, f"item-{item}") == 1 and item % 3 == 0:
            # from where a reader stands, memory that is refused looks like a file that cannot be read
            lacking = MemoryError("malloc failed") if item else OSError(errno.ENOMEM, "Cannot allocate memory")
            raise ShardError(f"{item} must be whole") from lacking
        time.sleep(self.slow)
        return item


def test_a_worker_that_is_out_of_memory_is_replaced(ray_executor, tmp_path):
    results = list(ray_executor.map(Hungry(str(tmp_path)), range(6), "hungry", Needs()))
    assert sorted(results) == [(i, i) for i in range(6)]
    assert {item: attempts(tmp_path)[item] for item in (0, 3)} == {0: 2, 3: 2}
    assert len(marks(tmp_path, "open")) >= 3  # two of them died of it


def test_a_worker_that_is_slow_to_end_takes_no_work_with_it(ray_executor, tmp_path, monkeypatch):
    """Ray tells a process to end and comes back; what it still answers must not count."""
    import ray

    kill, ended = ray.kill, []

    def later(actor: object, no_restart: bool) -> None:
        ended.append(threading.Timer(0.5, kill, [actor], {"no_restart": no_restart}))
        ended[-1].start()

    monkeypatch.setattr(ray, "kill", later)
    found = dict(ray_executor.map(Hungry(str(tmp_path), slow=0.3), range(6), "hungry", Needs(retries=1)))
    assert found == {i: i for i in range(6)}
    assert dict(ray_executor.failed) == {0: 1, 3: 1}
    assert len(ended) == 2
    for timer in ended:
        timer.join()


@dataclass(frozen=True)
class Unopened:
    """Counts its openings and never opens."""

    folder: str

    def open(self) -> Callable[[int], int]:
        (Path(self.folder) / f"opened-{time.monotonic_ns()}").touch()
        time.sleep(0.2)  # longer than it takes to hear of the first
        raise ModelError("weights must be there, but none.pt is not")


def test_what_no_shard_can_do_without_ends_the_stage_at_once(executor, tmp_path):
    with pytest.raises(ModelError, match=r"none\.pt is not"):
        list(executor.map(Unopened(str(tmp_path)), range(50), "unopened", Needs()))
    assert len(list(tmp_path.iterdir())) <= 8  # what was under way or queued at the workers, of 50
