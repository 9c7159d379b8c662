"""The throw-away clusters of these tests ask for no token."""

import os

# Ray asks for one as soon as the user has one, which its own local clusters make. Nodes and drivers
# that are started before and after that would not understand each other.
os.environ["RAY_AUTH_MODE"] = "disabled"
