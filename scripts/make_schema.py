"""Write config-schema.json, the JSON schema of a configuration file, from the program's own table."""

from pathlib import Path

from llamaswap.config.schema import render

if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "config-schema.json"
    target.write_text(render(), encoding="utf-8")
    print(f"wrote {target}")
