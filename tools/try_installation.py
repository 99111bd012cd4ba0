"""What a new user does first, with nothing installed but the library: start a node, propose, receive. No extra is needed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import copycat
from copycat import web


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = copycat.Config(data_dir=str(Path(folder) / "data"), copycat_port=0, gossip_port=0)
        with copycat.CopyCat(config) as cat:
            allocation = cat.allocate_new_data_structure()
            allocation.wait(timeout=30)
            subscription = cat.subscribe_to_data_structure(allocation.id, lambda: b"", timeout=30)
            subscription.propose.send(b"hello")
            assert subscription.commits.receive(timeout=30) == b"hello"
            with web.serve(cat, 0) as view:  # the page's files came along
                assert view.token_file is not None
            print(f"storage {config.storage}, from {Path(copycat.__file__).parent}")


if __name__ == "__main__":
    main()
