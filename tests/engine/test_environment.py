"""What a result says of the machine that it is from."""

from pathlib import Path

import pytest

from sgformer.engine.environment import environment


@pytest.mark.parametrize(("flags", "ending"), [("avx512f amx_bf16 amx_tile", ", AMX"), ("avx512f", "")])
def test_matrix_units_are_named(monkeypatch, flags, ending):
    lines = f"model name\t: A processor\nflags\t\t: fpu {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: lines)
    name, instructions = environment()["processor"].removesuffix(ending).split(", ")
    assert name == "A processor"
    assert instructions != "AMX"
    assert environment()["processor"].endswith(", AMX") == bool(ending)
