"""Executors run work on the shards of a pool: in threads of this process, or in a pool of Ray actors.

Two executors keep one contract (contract.py). Who stands before them, from a stage down to a shard:

    Stage.make
        │  Run.each, Run.fill          a function of one shard (or a Task, which opens a model first)
        │  Run.exchange                 a shuffle: three passes of `map` (pipeline/exchange/)
        ▼
    Watch        watching.py           measures each shard where it is done; tells progress, the event log, Prometheus
        ▼
    Timing       jobs/plan/timing.py   only under `plan --price`: times each call; of an exchange each item and part
        ▼
    _Lazy        choose.py             only before Ray: imports it and joins or starts a cluster with the first work
        ▼
    LocalExecutor  local.py            or   RayExecutor  on_ray.py
      │  Crew  threads.py                     │  Dispatcher  ray_dispatch.py   one pass: queues, retries, deadlines
                                              │  ActorPool   ray_pool.py       where actors are placed, sick nodes
                                              │  Waiting     batching.py       how many shards go with a call
                                              ▼
                                            Worker       ray_worker.py         in an actor: opens, does shards in turn

Watch is no executor: it wraps work before Run hands it on, since only Run knows what a pass is called and whom to tell.
Timing is apart from Watch because its lines cannot travel with results: scatter and decide return none.
_Lazy is apart from RayExecutor because importing Ray takes a second, which a run that finds everything done saves.
Both executors share when to try again (retries.py), how long an item may take (deadlines.py),
how a task is opened (task_opening.py), and the turns that two shards of one worker take (turns.py).
"""
