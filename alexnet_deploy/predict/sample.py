"""An even sample of a stream of predictions, of a limited size."""

from alexnet_deploy.predict.prediction import Prediction

MOST_KEPT = 200
"""Largest number of predictions of a gallery, whose page then has about 2 MB."""


class EvenSample:
    """Keeps between half of `most` and `most` predictions of a stream, evenly spaced; all of a short one.

    Every prediction is kept at first. When there are more than `most`, every second one is dropped, and from then on
    only every second one is taken, and so on: the choice depends on positions alone, and memory is limited.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._stride = 1
        self.kept: list[Prediction] = []
        """The predictions kept so far, in order."""
        self.num_seen = 0
        """Number of predictions of the stream so far."""

    def add(self, prediction: Prediction) -> None:
        """Take the next prediction of the stream."""
        if self.num_seen % self._stride == 0:
            self.kept.append(prediction)
            if len(self.kept) > self._most:
                self.kept = self.kept[::2]
                self._stride *= 2
        self.num_seen += 1
