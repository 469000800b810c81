"""The engine in this process: images, and containers of them, without a daemon."""
