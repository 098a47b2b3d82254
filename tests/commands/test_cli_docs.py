# SPDX-License-Identifier: MIT
"""docs/commands.md names options that exist, and every command."""

from __future__ import annotations

import re
from pathlib import Path

from command_line import run
from crfrnn.commands.parser import app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


def test_every_option_and_command_in_the_text_exists() -> None:
    commands = [c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback]
    helps = " ".join(run(command, "--help")[1] for command in commands) + run("--help")[1]
    for group in app.registered_groups:
        assert group.name and group.typer_instance
        commands.append(group.name)
        for command in group.typer_instance.registered_commands:
            helps += run(group.name, command.name, "--help")[1]
    assert all(f"`crfrnn {command}`" in TEXT for command in commands)
    missing = [option for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)) if option not in helps]
    assert not missing
