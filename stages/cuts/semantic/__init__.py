"""Semantic deduplication: of samples whose image vectors are close, the best stays (SemDeDup, and a greedy rule).

Compare: k-means cells bring close samples together, and each sample gets links to the better samples close to it.
Decide: in rounds, a sample is removed if the first of its links that is not removed is kept. Both repeat until all
samples are decided. docs/semantic.md explains the fixpoint with a picture: what is compared with what, when a decision
is final, why the loop ends, and what it costs.

    fixpoint ──▶ compare ──▶ buckets, kernels/close_pairs       vectors (n, d) ─▶ links
        │            └─────▶ state ◀─────┐                      links/ and state/ of a step
        ├──▶ decide ─────────────────────┤                      links ─▶ status of every sample
        └──▶ naming ─────────────────────┘                      status ─▶ duplicates-…/
"""
