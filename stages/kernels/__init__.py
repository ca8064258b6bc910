"""Functions from arrays to arrays: k-means, nearest centroids, quotas, contrast; no storage and no shards."""
