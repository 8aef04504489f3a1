"""The benchmark harness: paired timings of dense against skip, as one JSON document."""
