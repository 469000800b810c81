"""How many bytes of content each unpacked layer has, which is what Docker calls an image's size.

    layer_sizes    chain_id → content_bytes

A chainID stands for its content, so a row is never wrong, and one that is lost costs an estimate.
"""

import os

from pyrunc.store.database import Database

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = (
    "CREATE TABLE layer_sizes (chain_id TEXT PRIMARY KEY, content_bytes INTEGER NOT NULL) WITHOUT ROWID;",
)


class LayerSizes:
    """The rows below *root*."""

    def __init__(self, root: str) -> None:
        self._database = Database(
            os.path.join(root, "layers.db"), SCHEMA, "NORMAL", remedy="it can be removed"
        )

    def put(self, chain_id: str, content_bytes: int) -> None:
        """Remember the size of one layer."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO layer_sizes (chain_id, content_bytes) VALUES (?, ?)",
                (chain_id, content_bytes),
            )

    def get(self, chain_ids: "Iterable[str]") -> dict[str, int]:
        """The sizes of those of *chain_ids* that are known."""
        wanted = set(chain_ids)
        rows = self._database.query("SELECT chain_id, content_bytes FROM layer_sizes")
        return {chain_id: size for chain_id, size in rows if chain_id in wanted}

    def close(self) -> None:
        """Close the database."""
        self._database.close()
