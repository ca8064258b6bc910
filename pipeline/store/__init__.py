"""What a store knows beside its artifacts: where the files of shards lie, and what each run did."""
