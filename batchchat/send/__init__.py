"""send: requests -> outcomes, as fast as the endpoint really allows."""
