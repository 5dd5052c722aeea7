"""The local stack: everything Trainyard needs on one machine, without Docker and without root."""
