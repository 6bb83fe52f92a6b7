"""Speed and memory, side by side with the published computations written out literally: ``make bench``."""
