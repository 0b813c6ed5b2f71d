"""The simulation: a whole shop for months in one process, in virtual time, with faults drawn by a seed."""
