"""The version, alone in a file so that the package can be built without torch."""
VERSION = "0.1.0"
