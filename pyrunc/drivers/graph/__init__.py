"""Graph drivers: layers as snapshots on disk, each a change to its parent; `snapshotter` has what they all offer."""
