"""Claims whose truth is known, on networks whose circuit is known, and what becomes of them."""
