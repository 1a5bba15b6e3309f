"""``python -m api``, as `make schema` calls it: write the API's description."""

from api.app import describable
from api.description import FILE, describe

if __name__ == "__main__":
    FILE.write_bytes(describe(describable()))
