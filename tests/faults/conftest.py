from __future__ import annotations

import pytest

# What failed is said in detail, as for the tests themselves.
pytest.register_assert_rewrite("faults")
