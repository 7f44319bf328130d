"""--set PART.NAME=VALUE: the type of the constant decides how a value is read, and every mistake is one clear line."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbfbench.cli.settings import changed
from rbfbench.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    trays: int = 3
    heat: float = 180.5
    fan: bool = False
    timer: int | None = None
    slope: float | None = 0.5
    mode: Literal["bake", "grill"] = "bake"
    label: str = "plain"

    def __post_init__(self) -> None:
        if self.fan and self.mode == "grill":
            raise UsageError("fan = True cannot be used", "grills have none", "bake")


PARTS: dict[str, Any] = {"oven": Oven(), "spare": Oven(trays=1), "cellar": None}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("trays=7", 7),
        ("trays=-2", -2),
        ("heat=200", 200.0),
        ("heat=1e-06", 1e-6),
        ("fan=true", True),
        ("fan=True", True),
        ("fan=False", False),
        ("timer=12", 12),
        ("timer=none", None),
        ("slope=none", None),
        ("slope=0.25", 0.25),
        ("mode=grill", "grill"),
        ("label=7", "7"),
        ("label=a = b, c.d", "a = b, c.d"),
    ],
)
def test_values_are_read_as_the_type_of_the_constant(setting: str, value: Any) -> None:
    name = setting.partition("=")[0]
    parts = changed(PARTS, [f"oven.{setting}"])
    got = getattr(parts["oven"], name)
    assert got == value
    assert type(got) is type(value)
    assert parts["oven"] == dataclasses.replace(PARTS["oven"], **{name: value})
    assert parts["spare"] is PARTS["spare"]
    assert PARTS["oven"] == Oven()


@given(
    st.builds(
        Oven,
        trays=st.integers(-(2**40), 2**40),
        heat=st.floats(allow_nan=False),
        fan=st.booleans(),
        timer=st.none() | st.integers(-9, 9),
        slope=st.none() | st.floats(allow_nan=False),
        label=st.text("abc =.,;-+1", min_size=1).filter(lambda text: text != "none"),
    ),
    st.randoms(),
)
def test_what_is_printed_can_be_given_back(oven: Oven, random: Any) -> None:
    """In the words of --show, in any order."""
    settings = [f"oven.{name}={'none' if value is None else value}" for name, value in vars(oven).items()]
    random.shuffle(settings)
    assert changed(PARTS, settings)["oven"] == oven


def test_settings_are_applied_at_once_and_the_last_holds() -> None:
    start = {"oven": Oven(fan=True)}
    for settings in (["oven.mode=grill", "oven.fan=false"], ["oven.fan=false", "oven.mode=grill"]):
        assert changed(start, settings)["oven"] == Oven(mode="grill")
    assert changed(PARTS, ["oven.trays=5", "oven.trays=6"])["oven"].trays == 6
    with pytest.raises(UsageError, match="fan = True cannot be used: grills have none"):
        changed(start, ["oven.mode=grill"])


def test_no_setting_changes_nothing() -> None:
    assert changed(PARTS, []) == PARTS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("oven", "--set oven cannot be read: it is not PART.NAME=VALUE; write schedule.batch=128."),
        ("oven.trays", "--set oven.trays cannot be read: it is not PART.NAME=VALUE; write schedule.batch=128."),
        ("oven.trays=", "--set oven.trays= cannot be read: it is not PART.NAME=VALUE; write schedule.batch=128."),
        ("trays=3", "--set trays=3 cannot be read: it is not PART.NAME=VALUE; write schedule.batch=128."),
        ("oven.=3", "--set oven.=3 cannot be read: it is not PART.NAME=VALUE; write schedule.batch=128."),
        ("ovn.trays=3", "unknown part 'ovn': no part has this name; did you mean 'oven'?"),
        ("x.trays=3", "unknown part 'x': no part has this name; choose one of oven, spare."),
        ("cellar.trays=3", "--set cellar.trays=3 changes nothing: this training has no cellar; leave it out."),
        (
            "oven.tray=3",
            "unknown constant of oven 'tray': no constant of oven has this name; did you mean 'trays'?",
        ),
        (
            "oven.trays=1.5",
            "--set oven.trays=1.5 cannot be used: Expected `int`, got `str`; see --show for oven.trays.",
        ),
        (
            "oven.trays=none",
            "--set oven.trays=none cannot be used: Expected `int`, got `null`; see --show for oven.trays.",
        ),
        ("oven.heat=hot", "--set oven.heat=hot cannot be used: Expected `float`, got `str`; see --show for oven.heat."),
        ("oven.fan=maybe", "--set oven.fan=maybe cannot be used: Expected `bool`, got `str`; see --show for oven.fan."),
        (
            "oven.mode=fry",
            "--set oven.mode=fry cannot be used: Invalid enum value 'fry'; see --show for oven.mode.",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_exit_code_of_usage(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed(PARTS, ["oven.heat=1", setting])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
