"""Steps on the nodes of a Ray cluster: what they ask for, what is sent there and comes back. The only user of Ray."""
