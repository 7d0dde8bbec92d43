"""The nuScenes dataset: its tables, CAN bus and Vista's annotations, read and written."""
