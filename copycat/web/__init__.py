"""A page about a node, for people: members, groups, rates, latencies and events, in a browser (docs/web.md).

    with copycat.CopyCat(config) as cat, copycat.web.serve(cat, 8458) as view:
        print(view.url, view.token_file)

It only shows; nothing can be changed through it. Nobody sees anything without the token, which is in a file that the node's
user alone can read. It is off unless started, listens on loopback unless told otherwise, needs nothing but Python's own
library, and its page loads nothing from elsewhere.
"""

from copycat.web.view import View, serve

__all__ = ["View", "serve"]
