"""Functions from arrays to arrays: k-means, nearest centroids, quotas, contrast. No storage and no shards."""
