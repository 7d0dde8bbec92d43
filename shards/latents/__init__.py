"""The second shard set, `latents/` beside the image shards: the same keys in the same order, as an autoencoder and
SD3's text encoders see them."""
