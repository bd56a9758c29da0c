"""Doors to and from other libraries' environments; each needs the extra of its library."""
