"""Whether what the page shows can be read: the contrast of each colour with the grounds that it is used on, light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from copycat import web

STYLE = (Path(web.__file__).parent / "static" / "view.css").read_text(encoding="utf-8")
CONTRAST_MIN = 4.5  # of WCAG 2, level AA
PAIRS = [
    *((text, ground) for text in ("text", "quiet", "first", "second", "third") for ground in ("ground", "card")),
    *((kind, f"{kind}-ground") for kind in ("well", "warn", "bad")),
    ("bad", "card"),
]


def luminance(colour: str) -> float:
    """As WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def schemes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_told_from_its_ground(scheme: str) -> None:
    colours = schemes()[scheme]
    poor = {pair: round(found, 2) for pair in PAIRS if (found := contrast(*map(colours.get, pair))) < CONTRAST_MIN}  # type: ignore[arg-type]
    assert poor == {}


def test_contrast_is_measured_as_it_is_defined() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
