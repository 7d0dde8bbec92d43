"""The Waymo Open Dataset's perception formats: version 1 (TFRecord of protocol buffers) and version 2 (Parquet)."""
