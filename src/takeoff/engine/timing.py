"""The process that times calls to a model: `python -m takeoff.engine.timing SETUP`; see `engine.llama.pace`.

Its threads spin as an engine's do: otherwise it would time another program.
"""

from __future__ import annotations

from takeoff.engine.spinning import bound_spinning


def main() -> None:
    bound_spinning()
    from takeoff.engine.llama.pace import serve_orders

    serve_orders()


if __name__ == "__main__":
    main()
