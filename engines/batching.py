"""How many images an engine on a processor takes at once, by the number of views."""


def max_batch_for(num_views: int) -> int:
    """Return how many images one run takes at most.

    160 views keep the activations of a full-size network under a gigabyte (conv1 gives 1.2 MB a view), and no engine
    here gains from more.
    """
    return max(1, 160 // num_views)


def batch_size_for(num_views: int) -> int:
    """Return with how many images a run a processor is at its full speed.

    40 views are enough that the fully connected layers' weights are not read anew for each of a few.
    """
    return max(1, 40 // num_views)
