"""Clusters of image vectors: centroids by k-means or imported, and each sample's nearest centroid."""
