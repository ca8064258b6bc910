"""Executors run work on the shards of a pool: in threads of this process, or in a pool of Ray actors.

There are two executors with one contract (contract.py). The layers from a stage down to a shard:

    Stage.make
        │  Run.each, Run.fill          a function of one shard (or a Task, which opens a model first)
        │  Run.exchange                 a shuffle: three passes of `map` (pipeline/exchange/)
        ▼
    Watch        watching.py           measures each shard in its worker; reports to progress, event log and Prometheus
        ▼
    Timing       jobs/plan/timing.py   only under `plan --price`: times each call, and each item and part of an exchange
        ▼
    _Lazy        choose.py             only for Ray: imports it and joins or starts a cluster when work begins
        ▼
    LocalExecutor  local.py            or   RayExecutor  on_ray.py
      │  Crew  threads.py                     │  Dispatcher  ray_dispatch.py   one pass: queues, retries, deadlines
                                              │  ActorPool   ray_pool.py       where actors are placed, sick nodes
                                              │  Waiting     batching.py       how many shards go with a call
                                              ▼
                                            Worker       ray_worker.py         in an actor: opens the task, does shards

Watch is not an executor: it wraps the work before Run passes it on, because only Run knows the name of a pass and its
watchers. Timing is separate from Watch because its times cannot travel with results: scatter and decide return none.
_Lazy is separate from RayExecutor because importing Ray takes a second, which a run with nothing to do saves.
Both executors share the retries (retries.py), the deadlines of items (deadlines.py), the opening of tasks
(task_opening.py), and the lock for two shards in one worker (turns.py).
"""
