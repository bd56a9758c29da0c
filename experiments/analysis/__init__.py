"""Tables and figures of the committed results."""
