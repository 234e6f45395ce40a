"""The official pipeline, ours and the bound, side by side in one run; ``make bench`` writes docs/performance.md.

Every measurement is a process of its own (``bench/cases.py``), so that nothing warm or leaked carries over; the cases of
a table run in turn, round after round, so that a noisy minute hits all of them.  What is reported is the median of the
rounds.  The collector is a process of its own too, and counts uuids or requests; load and collector share the machine.
"""
