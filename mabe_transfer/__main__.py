"""`python -m mabe_transfer` is `mabe-transfer`, where the command is not on the path."""

from mabe_transfer.cli import app

app(prog_name="mabe-transfer")
