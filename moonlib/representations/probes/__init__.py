"""moonlib's own probes: intermediate metrics of representations."""
