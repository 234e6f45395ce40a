"""The proof: faults by the thousand, one command each; ``python -m proof --help``.  Figures: docs/guarantees.md."""
