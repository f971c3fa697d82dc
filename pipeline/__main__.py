"""`python -m pipeline COMMAND`: the installed command `goodsam`."""

from importlib.metadata import entry_points

(command,) = entry_points(group="console_scripts", name="goodsam")
command.load()()
