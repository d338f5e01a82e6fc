"""From a hypothesis, a network and a dataset to the metric of any swap set, at the least cost."""
