"""One file per dataset: each turns its items into chunks."""
