"""Pydantic models as a skill's types, alone, in containers and in each other."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.sdk.encoding import decode, encode
from edgenode.sdk.signature import Signature


class Wheel(BaseModel):
    inches: int = Field(gt=0)


class Car(BaseModel):
    model_config = ConfigDict(strict=True)
    built: date
    wheels: list[Wheel] = []
    brand: str = Field(alias="make")


class Price(BaseModel):
    net: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gross(self) -> float:
        return self.net * 1.2


def value(car: Car, spare: Wheel | None = None, rest: list[Wheel] = []) -> dict[str, Price]:  # noqa: B006
    """A price."""
    return {car.brand: Price(net=sum(wheel.inches for wheel in car.wheels))}


CAR = {"built": "2020-02-02", "wheels": [{"inches": 17}], "make": "Kit"}


def test_input_comes_as_models() -> None:
    signature = Signature(value)
    got = signature.arguments(msgspec.json.encode({"car": CAR, "rest": [{"inches": 3}]}), "")
    assert got == {"car": Car(**{**CAR, "built": date(2020, 2, 2)}), "spare": None, "rest": [Wheel(inches=3)]}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("car", "said"),
    [({**CAR, "wheels": [{"inches": 0}]}, "greater than 0"), ({"make": "Kit"}, "built"), (7, "Car")],
)
def test_input_that_does_not_fit_names_the_place(car: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        Signature(value).arguments(msgspec.json.encode({"car": car}), "")
    assert refused.value.reason == "BAD_INPUT"
    assert "$.car" in str(refused.value)


def test_output_is_what_the_model_shows() -> None:
    data, _ = Signature(value).output({"Kit": Price(net=10.0)})
    assert msgspec.json.decode(data) == {"Kit": {"net": 10.0, "gross": 12.0}}
    with pytest.raises(FailedPrecondition, match="return type"):
        Signature(value).output({"Kit": {"gross": 1}})


def test_schemas_refer_to_what_they_hold() -> None:
    signature = Signature(value)
    schema = msgspec.json.decode(signature.input_schema)
    assert schema["properties"]["car"]["properties"]["wheels"]["items"] == {"$ref": "#/$defs/Wheel"}
    assert schema["$defs"]["Wheel"]["properties"]["inches"]["exclusiveMinimum"] == 0
    assert schema["required"] == ["car"]
    assert "gross" in signature.output_schema


def test_values_of_clients() -> None:
    data, content_type = encode({"car": Car.model_validate_json(msgspec.json.encode(CAR))})
    assert decode(data, content_type) == {"car": CAR}
    assert decode(b'{"net": 1.5, "gross": 1.8}', "", Price) == Price(net=1.5)
    assert decode(b'[{"inches": 2}]', "", list[Wheel]) == [Wheel(inches=2)]
    with pytest.raises(InvalidArgument, match="inches"):
        decode(b'{"inches": "x"}', "", Wheel)


def test_other_classes_are_no_types() -> None:
    class Strange:
        pass

    def bad(thing: Strange) -> None: ...

    bad.__annotations__["thing"] = Strange
    with pytest.raises(TypeError, match="Strange"):
        Signature(bad)
    with pytest.raises(InvalidArgument, match="Strange") as refused:
        encode(Strange())
    assert refused.value.reason == "NOT_ENCODABLE"


def test_the_sdk_does_not_load_pydantic() -> None:
    program = "import sys, edgenode.sdk; from edgenode.sdk import Agent, Client; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
