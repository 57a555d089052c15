import msgspec
import pytest

from alexnet_deploy.core.bundle.accuracy import Gate


def test_a_gate_has_exactly_one_measurement() -> None:
    gate = Gate.by(0.75, {"conv1": 0.5}, ())
    assert (gate.accuracy, gate.calibration_agreement, gate.measured) == (None, 0.75, 0.75)
    with pytest.raises(ValueError, match="a gate has either accuracy or calibration_agreement"):
        msgspec.structs.replace(gate, calibration_agreement=None)
    with pytest.raises(msgspec.ValidationError, match="either accuracy or calibration_agreement"):
        msgspec.convert({**msgspec.to_builtins(gate), "calibration_agreement": None}, Gate)
