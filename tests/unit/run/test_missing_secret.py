"""A secret's file that is missing is one sentence with the next step (X3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible_collections.sre.runbooks.plugins.plugin_utils.missing_secret import plainly


def test_a_missing_file_is_named_with_whose_password_belongs_into_it(tmp_path: Path) -> None:
    file = tmp_path / "orders-db" / "admin"
    with pytest.raises(AnsibleError) as caught:
        lookup_loader.get("ansible.builtin.file", loader=DataLoader()).run([str(file)], {})
    assert plainly(f"Error while resolving value for 'login': {caught.value}") == (
        f"There is no file {file}. "
        "Put the password of the role admin of orders-db into it, so that only you can read it."
    )


def test_what_is_no_missing_file_stays_as_it_is() -> None:
    assert plainly("The disk is full.") == "The disk is full."
