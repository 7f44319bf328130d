"""Records, intervals, summaries and run folders: everything about numbers once they are measured, without torch."""
