"""What outlives a process: content by digest, rows about it, and the removal of what no row names.

    <root>/content/blobs/sha256/<hex>   the bytes of that digest, 0444            content.py
    <root>/content/ingest/<random>      being written, locked by its writer       content.py
    <root>/images.db                    images, names, layers, users, leases      metadata.py, leases.py
    <root>/images.db.lock, .reserve     who makes it; space for a deletion        database.py
    <root>/snapshots/<driver>/          each driver's own

The row is the truth. A durable write goes under a temporary name, fsync, rename, fsync of the directory, and only
then comes the row that names it; so after a crash there may be content without a row, which `collect` removes, and
never a row without its content, which `check` would tell.

Several processes share one root. Locks are taken in this order, and each is held for moments:

    files.Lock of an object of the engine  →  images.db (BEGIN IMMEDIATE)  →  a driver's metadata.db
"""
