"""Files of a run: the run folder, its checksums, metrics, report and pictures."""
