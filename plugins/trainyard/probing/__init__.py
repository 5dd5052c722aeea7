"""What the probes of nodes mean: references, verdicts, differences, and the page of a system."""
