"""What drivers and runtimes are held to: suites that their tests share, and that drivers of others can pass too."""
