"""Batch sizes of a CPU engine, by the number of views."""


def max_batch_for(num_views: int) -> int:
    """Return the largest number of images in one run.

    160 views keep the activations of a full-size network under a gigabyte (conv1 gives 1.2 MB a view), and no engine
    here gains from more.
    """
    return max(1, 160 // num_views)


def batch_size_for(num_views: int) -> int:
    """Return the smallest batch that reaches full throughput on a CPU.

    40 views are enough to amortise reading the weights of the fully connected layers.
    """
    return max(1, 40 // num_views)
