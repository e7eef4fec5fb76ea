"""Measure batchchat beside what people use, over an endpoint that is faster than any of them."""
