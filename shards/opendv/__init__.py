"""The OpenDV-YouTube dataset: its list of videos, its folders and its language annotations, read and written."""
