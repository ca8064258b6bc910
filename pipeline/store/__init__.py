"""What a store holds besides artifacts: the places of shard files, event logs, and notes of runs in progress."""
