"""Adapters from and to environments of other libraries. Each adapter needs the extra of its library."""
