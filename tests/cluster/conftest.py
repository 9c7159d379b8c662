"""The throw-away clusters of these tests ask for no token."""

import os

# Ray's local clusters create a token for the user, and Ray asks for a token as soon as the user has
# one. Nodes and drivers that were started before and after that could not talk to each other.
os.environ["RAY_AUTH_MODE"] = "disabled"
