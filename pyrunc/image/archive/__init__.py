"""Images in archives: what `docker save` writes, OCI layouts, and plain root trees."""
