"""What a finished policy writes: the manifest, lists of uids, training shards, exports."""
