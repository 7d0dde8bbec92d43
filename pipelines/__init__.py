"""The verbs: the only place where core and shards meet."""
