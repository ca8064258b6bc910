"""What a finished policy leaves: the manifest, lists of uids, training shards, exports."""
