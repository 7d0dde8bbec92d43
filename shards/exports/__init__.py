"""The rendered world in the official formats of the datasets: readers can be tested on data whose truth is known."""
