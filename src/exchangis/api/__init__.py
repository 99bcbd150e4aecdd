"""The REST interface: the contract over HTTP, on the documented and on the field base."""
