"""Clusters of image vectors: centroids by k-means or from a file, and each sample's nearest centroid."""
