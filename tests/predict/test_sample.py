"""The even sample: limited, evenly spaced, and everything if that is little."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.sample import EvenSample


@given(st.integers(1, 40), st.integers(0, 500))
def test_a_sample_is_evenly_spaced_and_limited(most: int, number: int) -> None:
    sample = EvenSample(most)
    for place in range(number):
        sample.add(Prediction(path=str(place), top=(), error=None, message=""))
    places = [int(prediction.path) for prediction in sample.kept]
    assert sample.num_seen == number
    assert len(places) <= most
    if number <= most:
        assert places == list(range(number))
    else:
        assert len(places) > most // 2
        (stride,) = {two - one for one, two in pairwise(places)} or {1}
        assert places[0] == 0
        assert number - places[-1] <= stride or len(places) == 1
