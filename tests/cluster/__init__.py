"""Evaluations and sweeps over workers, in this process, on a Ray cluster, and as Slurm's jobs."""
