"""From a run to something people read; never loads torch."""
