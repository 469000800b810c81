import pytest

# A failing assertion of the shared suite says as much as one of a test file.
pytest.register_assert_rewrite("pyrunc.testing.snapshotters")
