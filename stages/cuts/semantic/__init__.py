"""Semantic deduplication: of samples whose image vectors are close, the best stays (SemDeDup, and a greedy rule).

Compare: cells of k-means bring close samples together, and each sample gets links to better ones that it is close to.
Decide: in rounds, a sample goes where the first of its links that is not removed stays. Repeat until all are decided.
docs/semantic.md explains the fixpoint with a picture: what is compared with what, when a decision is final, why the
loop ends, and what it costs.

    fixpoint ──▶ compare ──▶ buckets, kernels/close_pairs       vectors (n, d) ─▶ links
        │            └─────▶ state ◀─────┐                      links/ and state/ of a step
        ├──▶ decide ─────────────────────┤                      links ─▶ status of every sample
        └──▶ naming ─────────────────────┘                      status ─▶ duplicates-…/
"""
